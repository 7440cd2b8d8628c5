"""Which browser origins and host names are let in, and the CORS headers of the answer.

The rules and headers are those of Ollama (recordings 190-206); the origin of the herd's own
pages is allowed too, and the headers that Anthropic's browser client sends.
"""

import ipaddress
from collections.abc import Collection, Sequence
from functools import lru_cache
from urllib.parse import urlsplit

LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "0.0.0.0", "[::1]"})
LOCAL_SCHEMES = ("app://", "file://", "tauri://", "vscode-webview://", "vscode-file://")

ALLOW_METHODS = "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"
ALLOW_HEADERS = (
    "Authorization,Content-Type,User-Agent,Accept,X-Requested-With,Openai-Beta,"
    "X-Stainless-Arch,X-Stainless-Async,X-Stainless-Custom-Poll-Interval,"
    "X-Stainless-Helper-Method,X-Stainless-Lang,X-Stainless-Os,X-Stainless-Package-Version,"
    "X-Stainless-Poll-Helper,X-Stainless-Retry-Count,X-Stainless-Runtime,"
    "X-Stainless-Runtime-Version,X-Stainless-Timeout,"
    "Anthropic-Version,Anthropic-Beta,X-Api-Key,Anthropic-Dangerous-Direct-Browser-Access"
)
"""Ollama's list (recording 190) and, after it, what Anthropic's browser client sends."""

MAX_AGE_S = 43200


@lru_cache(maxsize=512)
def is_allowed(origin: str, host: str, extra: Sequence[str] = ()) -> bool:
    """Whether a page of `origin` may use the herd that was asked for as `host`."""
    if origin in extra or "*" in extra or origin.startswith(LOCAL_SCHEMES):
        return True
    try:
        parts = urlsplit(origin)
    except ValueError:  # brackets that hold no address
        return False
    if parts.scheme not in ("http", "https"):
        return False
    name = parts.netloc.rsplit(":", 1)[0] if not parts.netloc.endswith("]") else parts.netloc
    return name in LOCAL_HOSTS or parts.netloc == host


def is_own_page(origin: str, host: str, extra: Sequence[str] = ()) -> bool:
    """Whether a page of `origin` is one of the herd that was asked for as `host`, or as good as
    one: what only the herd's own pages may ask takes no page of another port of this machine.
    """
    scheme, _, netloc = origin.partition("://")
    return origin in extra or (scheme in ("http", "https") and netloc == host)


PRIVATE_DOMAINS = frozenset({"local", "localhost", "internal", "lan", "home", "home.arpa"})
"""The public DNS answers no name below these (RFC 6762, 6761, 8375; ICANN keeps `internal` and
`home` back, `lan` is not delegated), so no stranger can point one at a machine here."""


def is_known_host(host: str, names: Collection[str]) -> bool:
    """Whether a request that names `host` (with its port, if any) can be meant for the herd.

    A page of a stranger who points a name of his at our address (DNS rebinding) asks for that
    name. Let in: addresses, names without a dot, private domains, and `names`: lower-case, `*` for
    any, `.example.com` for all below it. "" is let in: every browser names its host.
    """
    name = _host_name(host.strip().lower())
    if not name or "*" in names or name in names or "." not in name or _is_address(name):
        return True
    labels = name.split(".")
    return any(
        ".".join(labels[i:]) in PRIVATE_DOMAINS or f".{'.'.join(labels[i:])}" in names
        for i in range(1, len(labels))
    )


def _host_name(host: str) -> str:
    if host.startswith("["):
        address, _, rest = host[1:].partition("]")
        return address if not rest or (rest[0] == ":" and rest[1:].isdigit()) else host
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdigit() else host).removesuffix(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def answer_headers(origin: str) -> list[tuple[bytes, bytes]]:
    """Headers of an ordinary answer to an allowed origin."""
    return [(b"Access-Control-Allow-Origin", origin.encode("latin-1")), (b"Vary", b"Origin")]


def preflight_headers(origin: str) -> list[tuple[bytes, bytes]]:
    """Headers of the answer to an OPTIONS request of an allowed origin."""
    return [
        (b"Access-Control-Allow-Headers", ALLOW_HEADERS.encode()),
        (b"Access-Control-Allow-Methods", ALLOW_METHODS.encode()),
        (b"Access-Control-Allow-Origin", origin.encode("latin-1")),
        (b"Access-Control-Max-Age", b"%d" % MAX_AGE_S),
        (b"Vary", b"Origin, Access-Control-Request-Method, Access-Control-Request-Headers"),
    ]
