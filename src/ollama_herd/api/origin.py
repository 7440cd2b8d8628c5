"""Which browser origins and host names are let in, and the CORS headers of the answer.

The rules and headers are those of Ollama (recordings 190-206); the origin of the herd's own
pages is allowed too, and the headers that Anthropic's browser client sends.
"""

from collections.abc import Sequence
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
    parts = urlsplit(origin)
    if parts.scheme not in ("http", "https"):
        return False
    name = parts.netloc.rsplit(":", 1)[0] if not parts.netloc.endswith("]") else parts.netloc
    return name in LOCAL_HOSTS or parts.netloc == host


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
