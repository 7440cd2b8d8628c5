"""Where an engine of this machine listens, and how OLLAMA_HOST says so. Pure."""

import ipaddress
from urllib.parse import urlsplit

import msgspec

DEFAULT_PORT = 11434
"""Where Ollama listens when OLLAMA_HOST names no port."""

_ANY = frozenset({"", "0.0.0.0", "::", "*"})
"""Bound to every address: on this machine that is reached at the loopback address."""


class EngineAddress(msgspec.Struct, frozen=True):
    """A plain HTTP server. `host` is a name or an IP address without brackets."""

    host: str
    port: int

    @property
    def netloc(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.netloc}"

    @property
    def is_loopback(self) -> bool:
        """True for an address that cannot be another machine; a name is never sure."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def parse_engine_url(url: str) -> EngineAddress:
    """`http://host:port`, as the settings have it. Raises ValueError for anything else."""
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname or not parts.port:
        raise ValueError(f"{url!r} should be http://HOST:PORT")
    return EngineAddress(_reachable(parts.hostname), parts.port)


def parse_ollama_host(text: str) -> EngineAddress | None:
    """What OLLAMA_HOST means for a client on this machine; None when it names no plain server.

    As Ollama reads it: blanks and quotes around it do not count, a missing host is this machine,
    a missing or impossible port is 11434 (80 behind `http://`), a path is left out. None stands
    for https, which only a proxy in front of an engine speaks.
    """
    cleaned = text.strip().strip("\"'").strip()
    scheme, separator, rest = cleaned.rpartition("://")
    if separator and scheme.lower() != "http":
        return None
    host, port = _split_port(rest.partition("/")[0], 80 if separator else DEFAULT_PORT)
    return EngineAddress(_reachable(host), port)


def _split_port(netloc: str, default: int) -> tuple[str, int]:
    host, colon, port = netloc.rpartition(":")
    if not colon or port.endswith("]") or (":" in host and not host.endswith("]")):
        host, port = netloc, ""  # no port: a name, an IPv4 address, or a bare IPv6 address
    number = int(port) if port.isascii() and port.isdigit() and len(port) <= 5 else 0
    return host, number if 0 < number <= 65535 else default


def _reachable(host: str) -> str:
    host = host.strip("[]").lower()
    return "127.0.0.1" if host in _ANY else host
