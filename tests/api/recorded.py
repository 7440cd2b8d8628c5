"""Recorded exchanges of real servers, taken apart: what was asked and what came back."""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tests.fakes.recordings import LLAMACPP, OLLAMA, Recording, read

_HERE = Path(__file__).parent / "golden"


@dataclass(frozen=True)
class Exchange:
    recording: Recording

    @property
    def name(self) -> str:
        return self.recording.name

    @property
    def path(self) -> str:
        return self.recording.path

    @property
    def asked(self) -> bytes:
        """The request's body; no more of it than the request's head announces."""
        body = self.recording.body
        length = _header(self.recording.request.partition(b"\r\n\r\n")[0], b"content-length")
        return body[: int(length)] if length else body

    @property
    def is_whole(self) -> bool:
        """False where the recorder kept only the beginning of a long request."""
        length = _header(self.recording.request.partition(b"\r\n\r\n")[0], b"content-length")
        return not length or len(self.recording.body) >= int(length)

    @property
    def request_encoding(self) -> str:
        head = self.recording.request.partition(b"\r\n\r\n")[0]
        return _header(head, b"content-encoding").decode()

    @cached_property
    def _parts(self) -> tuple[bytes, bytes]:
        head, _, body = self.recording.response.partition(b"\r\n\r\n")
        return head, body

    @property
    def status(self) -> int:
        return int(self._parts[0].split()[1])

    @property
    def content_type(self) -> bytes:
        return self.header(b"content-type")

    @property
    def is_stream(self) -> bool:
        return self.content_type in {b"application/x-ndjson", b"text/event-stream"}

    def header(self, name: bytes) -> bytes:
        return _header(self._parts[0], name)

    @cached_property
    def answer(self) -> bytes:
        """The answer's body without its chunking."""
        body = self._parts[1]
        if b"chunked" in self.header(b"transfer-encoding"):
            return _unchunked(body)
        length = self.header(b"content-length")
        return body[: int(length)] if length else body


def _header(head: bytes, name: bytes) -> bytes:
    found = re.search(rb"(?im)^" + re.escape(name) + rb":[ \t]*([^\r\n]*)", head)
    return found[1] if found else b""


def _unchunked(body: bytes) -> bytes:
    pieces = []
    while body:
        size_text, _, rest = body.partition(b"\r\n")
        size = int(size_text, 16)
        if size == 0:
            break
        pieces.append(rest[:size])
        body = rest[size + 2 :]
    return b"".join(pieces)


def ollama(number: str) -> Exchange:
    """The exchange of a real Ollama whose file name begins with `number`."""
    return _find(number, OLLAMA, _HERE / "ollama")


def llamacpp(number: str) -> Exchange:
    """The exchange of a real llama.cpp server whose file name begins with `number`."""
    return _find(number, LLAMACPP, _HERE / "llamacpp")


def every_ollama() -> list[Exchange]:
    return [Exchange(read(path)) for path in sorted(OLLAMA.glob("*.txt"))]


def _find(number: str, *folders: Path) -> Exchange:
    found = [path for folder in folders for path in sorted(folder.glob(f"{number}_*.txt"))]
    assert found, f"no recording {number}"
    return Exchange(read(found[0]))
