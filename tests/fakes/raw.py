"""A blocking HTTP client on a bare socket: every byte and its framing can be seen and asserted."""

import contextlib
import json
import socket
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from ollama_herd import clock


@dataclass
class Response:
    """A response as it came. `framing` is length, chunked or close; `is_whole` says whether the
    body ended as its framing promised. `arrivals` are seconds since the request, one a chunk."""

    status: int
    reason: str
    headers: list[tuple[str, str]]
    framing: str
    body: bytes = b""
    is_whole: bool = False
    chunks: list[bytes] = field(default_factory=list)
    arrivals: list[float] = field(default_factory=list)

    def header(self, name: str) -> str:
        """The first value, "" when it is not there."""
        return next((v for k, v in self.headers if k.lower() == name.lower()), "")

    def json(self) -> Any:
        """The body decoded."""
        return json.loads(self.body)

    def lines(self) -> list[Any]:
        """The objects of an NDJSON body."""
        return [json.loads(line) for line in self.body.split(b"\n") if line]


class Client:
    """One connection. `timeout_s` bounds every single read and write."""

    def __init__(self, port: int, host: str = "127.0.0.1", timeout_s: float = 15.0) -> None:
        self.socket = socket.create_connection((host, port), timeout_s)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""
        self._sent_s = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """A plain close: FIN, or a reset when bytes are unread."""
        self.socket.close()

    def reset(self) -> None:
        """Go away with a reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)
        self._sent_s = clock.monotonic_s()

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Send a whole request; a body that is not bytes goes as JSON."""
        self.send(request_bytes(method, path, body, headers))

    def closed_by_peer(self, timeout_s: float = 5.0) -> bool:
        """Whether the peer closes (or resets) within the time, reading away what still comes."""
        self.socket.settimeout(timeout_s)
        try:
            while self.socket.recv(65536):
                pass
        except ConnectionError:
            return True
        except TimeoutError:
            return False
        return True

    def read_head(self) -> tuple[int, str, list[tuple[str, str]]]:
        """Status, reason and headers; interim 100s are skipped. ConnectionError when cut."""
        while b"\r\n\r\n" not in self._buffer:
            self._more()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        first, *rest = head.decode("latin-1").split("\r\n")
        _, status, *reason = first.split(" ", 2)
        if status == "100":
            return self.read_head()
        headers = [(n, v.strip()) for n, _, v in (line.partition(":") for line in rest)]
        return int(status), reason[0] if reason else "", headers

    def read(self, method: str = "GET") -> Response:
        """The next response to its end, whole or cut."""
        response = self.begin(method)
        with contextlib.suppress(ConnectionError):
            for _ in self.body(response, method):
                pass
        return response

    def begin(self, method: str = "GET") -> Response:
        """The head of the next response."""
        status, reason, headers = self.read_head()
        response = Response(status, reason, headers, "close")
        if "chunked" in response.header("transfer-encoding"):
            response.framing = "chunked"
        elif response.header("content-length"):
            response.framing = "length"
        if method == "HEAD" or status in (204, 304):
            response.is_whole = True
        return response

    def body(self, response: Response, method: str = "GET") -> Iterator[bytes]:
        """The body piece by piece (chunk by chunk); fills in `response` as it goes."""
        if method == "HEAD" or response.status in (204, 304):
            return
        pieces = {"chunked": self._chunks, "length": self._sized, "close": self._rest}
        for piece in pieces[response.framing](response):
            response.body += piece
            response.chunks.append(piece)
            response.arrivals.append(clock.monotonic_s() - self._sent_s)
            yield piece
        response.is_whole = True

    def _chunks(self, _response: Response) -> Iterator[bytes]:
        while True:
            while b"\r\n" not in self._buffer:
                self._more()
            line, _, self._buffer = self._buffer.partition(b"\r\n")
            size = int(line, 16)
            while len(self._buffer) < size + 2:
                self._more()
            data, self._buffer = self._buffer[:size], self._buffer[size + 2 :]
            if size == 0:
                return
            yield data

    def _sized(self, response: Response) -> Iterator[bytes]:
        left = int(response.header("content-length"))
        while left:
            if not self._buffer:
                self._more()
            data, self._buffer = self._buffer[:left], self._buffer[left:]
            left -= len(data)
            yield data

    def _rest(self, _response: Response) -> Iterator[bytes]:
        if self._buffer:
            early, self._buffer = self._buffer, b""
            yield early
        while data := self.socket.recv(65536):
            yield data

    def _more(self) -> None:
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionError(f"closed with {len(self._buffer)} bytes of an unfinished answer")
        self._buffer += data


def request_bytes(
    method: str,
    path: str,
    body: object = None,
    headers: Mapping[str, str] | None = None,
) -> bytes:
    """A request as the recordings' client writes it."""
    data = b""
    if isinstance(body, bytes):
        data = body
    elif body is not None:
        data = json.dumps(body).encode()
    fields = {"Host": "127.0.0.1", **(headers or {})}
    if body is not None and "Transfer-Encoding" not in fields:
        fields.setdefault("Content-Type", "application/json")
        fields.setdefault("Content-Length", str(len(data)))
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


def call(
    port: int,
    method: str,
    path: str,
    body: object = None,
    headers: Mapping[str, str] | None = None,
    *,
    timeout_s: float = 15.0,
) -> Response:
    """One request on its own connection."""
    with Client(port, timeout_s=timeout_s) as client:
        client.ask(method, path, body, headers)
        return client.read(method)


def exchange(port: int, data: bytes, *, timeout_s: float = 15.0) -> Response:
    """Raw request bytes on their own connection."""
    method = data.split(b" ", 1)[0].decode("latin-1")
    with Client(port, timeout_s=timeout_s) as client:
        client.send(data)
        return client.read(method)
