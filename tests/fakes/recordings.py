"""Reads recorded exchanges: the request and response bytes as they went over the wire."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

OLLAMA = Path(__file__).parent.parent / "golden" / "ollama"
LLAMACPP = Path(__file__).parent.parent / "golden" / "llamacpp"

_REQUEST = b"##### REQUEST (raw)\n"
_RESPONSE = b"\n\n##### RESPONSE (raw)\n"
_NOTES = b"\n\n##### NOTES\n"


@dataclass(frozen=True)
class Recording:
    """One exchange. `response` is b"" when none came."""

    name: str
    request: bytes
    response: bytes

    @cached_property
    def method(self) -> str:
        return self.request.split(b" ", 1)[0].decode()

    @cached_property
    def path(self) -> str:
        return self.request.split(b" ", 2)[1].decode()

    @cached_property
    def body(self) -> bytes:
        """The request's body as sent."""
        return self.request.partition(b"\r\n\r\n")[2]


def read(path: Path) -> Recording:
    """A recording from its file."""
    data = path.read_bytes()
    request, _, rest = data.removeprefix(_REQUEST).partition(_RESPONSE)
    response = rest.rpartition(_NOTES)[0]
    return Recording(path.stem, request, response)


def read_all(folder: Path) -> list[Recording]:
    """All recordings of a folder, by name."""
    return [read(path) for path in sorted(folder.glob("*.txt"))]
