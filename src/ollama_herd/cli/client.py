"""What commands ask a running router, and how they end when it does not answer.

Exit status: NO_ROUTER when nothing answers there, 1 when the router refuses, 2 for a wrong option.
"""

import http.client
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, TypeVar
from urllib.parse import urlencode, urlsplit

import msgspec
import typer

from ollama_herd.cli.process import fail
from ollama_herd.config import API_KEY_VARIABLE, RouterSettings

NO_ROUTER = 3
"""Exit status when no router answers, apart from 1: scripts tell the two kinds of trouble apart."""

TIMEOUT_S = 10.0
"""For an answer of the router itself, which asks no engine."""

MOST_BYTES = 64 << 20

RouterOption = Annotated[
    str | None,
    typer.Option("--router", metavar="URL", help="the running router (default: of this machine)"),
]
JsonOption = Annotated[bool, typer.Option("--json", metavar="", help="print JSON")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", metavar="", help="do not ask")]

Headers = Mapping[str, str | bytes]
"""Text must be of Latin-1."""

_T = TypeVar("_T")


class Refused(Exception):  # noqa: N818 - an answer, not a defect
    """The router answered, and not with success."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def why(error: Exception) -> str:
    """Why nothing came from an address, in a few words."""
    if isinstance(error, ConnectionRefusedError):
        return "nothing listens there"
    if isinstance(error, http.client.RemoteDisconnected):
        return "it closed the connection; with TLS its address begins with https://"
    if getattr(error, "reason", "") == "CERTIFICATE_VERIFY_FAILED":
        return "its certificate is of a CA unknown here: copy its ca.pem into tls/ of the home"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


class Router:
    """One router. All methods block; `fail` ends the process with one line."""

    def __init__(self, url: str | None) -> None:
        """`url` as given by the user; None is this machine's. Fails on one that is no URL."""
        asked = (url or default_url()).rstrip("/")
        self.url = asked if "//" in asked else f"http://{asked}"
        parts = urlsplit(self.url)
        try:
            port = parts.port
        except ValueError as error:
            fail(f"'{url}' is no URL of a router: {error}", code=2)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            fail(f"'{url}' is no URL of a router: it must begin with http://", code=2)
        self._is_tls = parts.scheme == "https"
        self._host = parts.hostname
        self._port = port or (443 if self._is_tls else 80)

    def get(self, path: str, query: Mapping[str, object] | None = None) -> bytes:
        """The body at `path`; ends the process when there is none."""
        given = {name: value for name, value in (query or {}).items() if value not in (None, "")}
        return self.done("GET", f"{path}?{urlencode(given)}" if given else path)

    def read(self, path: str, kind: type[_T], query: Mapping[str, object] | None = None) -> _T:
        """The JSON at `path`; ends the process when it is another."""
        return self.decoded(self.get(path, query), kind)

    def decoded(self, body: bytes, kind: type[_T]) -> _T:
        """JSON of this router; ends the process when it is another."""
        try:
            return msgspec.json.decode(body, type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            fail(f"{self.url} is no herd of this version: {error}")

    def done(self, method: str, path: str, value: object = None) -> bytes:
        """The body of a successful answer; ends the process with the reason of any other."""
        try:
            with self.sent(method, path, value) as response:
                return response.read(MOST_BYTES)
        except Refused as refused:
            fail(f"{self.url} answered {refused.status}: {refused}")

    def lines(
        self, method: str, path: str, value: object, headers: Headers, timeout_s: float
    ) -> Iterator[bytes]:
        """The lines of a streamed answer. Raises Refused; `timeout_s` bounds each wait."""
        with self.sent(method, path, value, headers, timeout_s) as response:
            for line in response:
                if line.strip():
                    yield line

    @contextmanager
    def sent(
        self,
        method: str,
        path: str,
        value: object = None,
        headers: Headers | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> Iterator[http.client.HTTPResponse]:
        """A successful answer, not read yet. Raises Refused; fails when nothing answers."""
        connection = self._connection(timeout_s)
        body = None if value is None else msgspec.json.encode(value)
        try:
            connection.request(method, path, body, {**self._headers(body), **(headers or {})})
            response = connection.getresponse()
            if response.status >= 300:
                reason = _reason(response.read(MOST_BYTES))
                if response.status == 401:
                    reason += f"; commands take it from the variable {API_KEY_VARIABLE}"
                raise Refused(response.status, reason)
            yield response
        except (OSError, http.client.HTTPException) as error:
            fail(
                f"no router answers at {self.url} ({why(error)}); start one with 'herd', "
                "or name the one that runs: --router http://ROUTER:11435",
                code=NO_ROUTER,
            )
        finally:
            connection.close()

    def _connection(self, timeout_s: float) -> http.client.HTTPConnection:
        if not self._is_tls:
            return http.client.HTTPConnection(self._host, self._port, timeout=timeout_s)
        import ssl  # noqa: PLC0415 - hardly any router has TLS

        from ollama_herd.cli.options import load_or_fail  # noqa: PLC0415

        context = ssl.create_default_context()
        own_ca = load_or_fail(RouterSettings, {}).settings.home / "tls" / "ca.pem"
        if own_ca.is_file():
            context.load_verify_locations(own_ca)
        return http.client.HTTPSConnection(
            self._host, self._port, timeout=timeout_s, context=context
        )

    def _headers(self, body: bytes | None) -> dict[str, str]:
        headers = {} if body is None else {"Content-Type": "application/json"}
        key = os.environ.get(API_KEY_VARIABLE, "")
        if key:
            headers["Authorization"] = f"Bearer {key}"
        return headers


def default_url() -> str:
    """The router that the settings of this machine describe."""
    from ollama_herd.cli.options import load_or_fail  # noqa: PLC0415 - not needed with --router

    return url_of(load_or_fail(RouterSettings, {}).settings)


def host_here(settings: RouterSettings) -> str:
    """The host of these settings as programs of this machine reach it; of all addresses loopback,
    which for `::` is IPv6's alone.
    """
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)


def url_of(settings: RouterSettings) -> str:
    """Where the router of these settings answers programs of this machine."""
    host = host_here(settings)
    scheme = "http" if settings.tls_cert is None else "https"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{settings.port}"


def _reason(body: bytes) -> str:
    """What an error of ours, of Ollama's or of OpenAI's dialect says."""
    try:
        said = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        said = None
    reason = said.get("error") if isinstance(said, dict) else None
    if isinstance(reason, dict):
        reason = reason.get("message")
    return reason if isinstance(reason, str) else body[:500].decode(errors="replace").strip()
