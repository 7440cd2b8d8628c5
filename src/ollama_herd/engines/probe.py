"""What every engine's probe is and uses: a look at the engine, and HTTP with clear failures."""

import asyncio
import socket
from typing import Protocol, TypeVar

import aiohttp
import msgspec

from ollama_herd.core.node import EngineKind, LoadedModel, Model
from ollama_herd.engines.address import EngineAddress

PROBE_TIMEOUT_S = 3.0
"""An engine on the same machine answers in milliseconds, on a busy one within half a second; one
that takes longer serves nobody well."""

MAX_ANSWER_BYTES = 32 * 2**20
"""A thousand models make a list of half a megabyte; no engine's answer is near this."""

MAX_MODELS = 5000
"""Of one engine: about 2.5 MB of the 4 MiB that a report may have."""

RESOLVE_TIMEOUT_S = 2.0

_QUOTED_CHARS = 200

_T = TypeVar("_T")


class EngineFailure(Exception):  # noqa: N818 - the state of an engine, not a defect
    """The engine cannot be used now; the text says why and what to do.

    `is_gone` is true when nothing listens there: then nothing is loaded any more either.
    """

    def __init__(self, reason: str, *, is_gone: bool = False) -> None:
        super().__init__(reason)
        self.is_gone = is_gone


class Findings(msgspec.Struct, frozen=True):
    """What a look at an engine brought; None where it does not tell."""

    version: str = ""
    models: tuple[Model, ...] = ()
    loaded: tuple[LoadedModel, ...] = ()
    slots: int | None = None
    max_loaded: int | None = None
    speaks_anthropic: bool = False


class EngineProbe(Protocol):
    """One kind of engine. A probe belongs to one engine and is used by one task."""

    kind: EngineKind

    async def look(self, *, thorough: bool) -> Findings:
        """See what the engine has, in bounded time. Raises EngineFailure.

        What changes rarely is asked for again only now and then, and when `thorough`.
        """

    async def close(self) -> None:
        """End what the probe still does."""


class Answer(msgspec.Struct, frozen=True):
    """An engine's answer. `server` is its Server header."""

    status: int
    body: bytes
    server: str = ""


class EngineHttp:
    """Asks one engine; every failure becomes an EngineFailure that names the engine."""

    def __init__(self, session: aiohttp.ClientSession, address: EngineAddress) -> None:
        self._session = session
        self._address = address

    @property
    def netloc(self) -> str:
        return self._address.netloc

    async def get(self, path: str) -> Answer:
        """GET; any status is an answer."""
        return await self._ask("GET", path, None, PROBE_TIMEOUT_S)

    async def post(self, path: str, body: object, timeout_s: float) -> Answer:
        """POST `body` as JSON; any status is an answer."""
        return await self._ask("POST", path, msgspec.json.encode(body), timeout_s)

    async def _ask(self, method: str, path: str, body: bytes | None, timeout_s: float) -> Answer:
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._session.request(
                    method, self._address.url + path, data=body, allow_redirects=False
                ) as response,
            ):
                content = await response.content.read(MAX_ANSWER_BYTES + 1)
                while len(content) <= MAX_ANSWER_BYTES and not response.content.at_eof():
                    content += await response.content.read(MAX_ANSWER_BYTES + 1 - len(content))
                if len(content) > MAX_ANSWER_BYTES:
                    raise EngineFailure(f"{self.netloc} answered {path} without end")
                return Answer(response.status, content, response.headers.get("Server", ""))
        except aiohttp.ConnectionTimeoutError:
            reason = f"{self.netloc} takes no connection; is the machine on and in the network?"
            raise EngineFailure(reason, is_gone=True) from None
        except TimeoutError:
            raise EngineFailure(
                f"{self.netloc} takes connections but did not answer {path} in {timeout_s:g} s; "
                "the engine may hang or the machine be overloaded"
            ) from None
        except aiohttp.ClientConnectorError as error:
            raise self._unreachable(error) from None
        except aiohttp.ServerDisconnectedError:
            raise EngineFailure(f"{self.netloc} closed the connection without an answer") from None
        except (aiohttp.ClientError, OSError) as error:
            kind = type(error).__name__
            raise EngineFailure(f"{self.netloc} does not answer in proper HTTP: {kind}") from None

    def _unreachable(self, error: aiohttp.ClientConnectorError) -> EngineFailure:
        if isinstance(error.os_error, ConnectionRefusedError):
            reason = f"nothing listens at {self.netloc}; is the engine running?"
            return EngineFailure(reason, is_gone=True)
        reason = error.os_error.strerror or str(error.os_error) or "connection failed"
        return EngineFailure(f"{self.netloc} cannot be reached: {reason}", is_gone=True)


async def resolve(host: str) -> list[str]:
    """The IP addresses of a host, [] when it has none."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(RESOLVE_TIMEOUT_S):
            found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return [str(entry[4][0]) for entry in found]


def expect(answer: Answer, path: str, kind: type[_T], netloc: str) -> _T:
    """The body of a 200 as `kind`. Raises EngineFailure for another status or other content."""
    if answer.status != 200:
        text = _printable(answer.body[:_QUOTED_CHARS].decode(errors="replace"))
        raise EngineFailure(f"{netloc} answered {path} with {answer.status}: {text}")
    try:
        return msgspec.json.decode(answer.body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise EngineFailure(f"{netloc} answered {path} with something else: {error}") from None


def _printable(text: str) -> str:
    """On one line, without what a terminal would obey."""
    return "".join(c if c.isprintable() else " " for c in text).strip()


def decode_each(entries: list[msgspec.Raw] | None, kind: type[_T]) -> list[_T]:
    """The entries of a list that are what we expect: one odd model must not hide the others.
    Raises EngineFailure for more than a report can hold, or the node would be lost with it.
    """
    if entries is not None and len(entries) > MAX_MODELS:
        raise EngineFailure(
            f"the engine lists {len(entries)} models; at most {MAX_MODELS} are read"
        )
    found = []
    for entry in entries or ():
        try:
            found.append(msgspec.json.decode(entry, type=kind))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue
    return found
