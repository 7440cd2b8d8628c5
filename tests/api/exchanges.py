"""Recorded exchanges of llama.cpp as an HTTP client would hand them on: chunking taken off."""

import re
from dataclasses import dataclass
from pathlib import Path

from tests.fakes.recordings import Recording, read

OLLAMA = Path(__file__).parents[1] / "golden" / "ollama"
"""Recorded exchanges of a real Ollama."""

_FOLDERS = (
    Path(__file__).parent / "golden" / "llamacpp",
    Path(__file__).parents[1] / "golden" / "llamacpp",
)


@dataclass(frozen=True)
class Exchange:
    """`pieces` are the chunks of the body as the server sent them."""

    recording: Recording
    status: int
    content_type: str
    pieces: tuple[bytes, ...]

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)


def llamacpp(name: str) -> Exchange:
    """The recording whose file name begins with `name`."""
    found = [path for folder in _FOLDERS for path in folder.glob(f"{name}_*.txt")]
    recording = read(found[0])
    head, _, body = recording.response.partition(b"\r\n\r\n")
    content_type = re.search(rb"(?i)\r\ncontent-type: ([^\r\n]*)", head)
    assert content_type is not None
    is_chunked = b"chunked" in head
    return Exchange(
        recording,
        int(head.split()[1]),
        content_type[1].decode(),
        tuple(_chunks(body)) if is_chunked else (body,),
    )


def _chunks(body: bytes) -> list[bytes]:
    chunks = []
    while body:
        size_text, _, rest = body.partition(b"\r\n")
        size = int(size_text, 16)
        if size == 0:
            break
        chunks.append(rest[:size])
        body = rest[size + 2 :]
    return chunks
