"""Where a long upload waits on the router's disk, so that it can be sent again to another node.

The file has no name (on Windows it is deleted with its handle): nothing of it outlives the request
or the router. A short upload stays in memory.
"""

import asyncio
import tempfile
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import IO

from ollama_herd.api.forms import Span

IN_MEMORY_BYTES = 1024 * 1024
"""Up to here no disk is asked. A dictated sentence is 100 KB."""

PIECE_BYTES = 256 * 1024


class Spool:
    """Bytes appended once and read as often as needed. Raises OSError when the disk is full."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._memory = bytearray()
        self._file: IO[bytes] | None = None
        self._written = 0
        self._turn = threading.Lock()
        self._is_closed = False

    @property
    def size(self) -> int:
        """Bytes appended so far."""
        return self._written + len(self._memory)

    @property
    def is_short(self) -> bool:
        """Whether all of it is in memory."""
        return self._file is None

    async def append(self, data: bytes) -> None:
        self._memory += data
        if len(self._memory) > IN_MEMORY_BYTES:
            await asyncio.to_thread(self._write_out)

    async def end(self) -> None:
        """Call once after the last `append`."""
        if self._file is not None:
            await asyncio.to_thread(self._write_out)

    def _write_out(self) -> None:
        with self._turn:
            if not self._is_closed:
                self._write_memory()
        self._let_go_if_closed()

    def _write_memory(self) -> None:
        if self._file is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=self._folder, prefix="upload-")  # noqa: SIM115
        self._file.write(self._memory)
        self._file.flush()
        self._written += len(self._memory)
        self._memory.clear()

    def in_memory(self, span: Span) -> bytes:
        """Bytes of a short one."""
        return bytes(self._memory[span.start : span.start + span.length])

    async def read(self, span: Span) -> AsyncIterator[bytes]:
        """The bytes of `span`, piece by piece."""
        if self._file is None:
            yield self.in_memory(span)
            return
        place, end = span.start, span.start + span.length
        while place < end:
            piece = await asyncio.to_thread(self._read_at, place, min(PIECE_BYTES, end - place))
            if not piece:
                raise OSError("the upload's file has lost its end")
            place += len(piece)
            yield piece

    def _read_at(self, place: int, size: int) -> bytes:
        data = b""
        with self._turn:  # two attempts may read at once
            if self._file is not None and not self._is_closed:
                self._file.seek(place)
                data = self._file.read(size)
        self._let_go_if_closed()
        return data

    def close(self) -> None:
        """Nothing of it is left afterwards, or when the thread that is at it has done its piece."""
        self._is_closed = True
        self._let_go_if_closed()

    def _let_go_if_closed(self) -> None:
        if self._is_closed and self._turn.acquire(blocking=False):  # else whoever has it lets go
            try:
                self._memory.clear()
                if self._file is not None:
                    self._file.close()
            finally:
                self._turn.release()


class SpooledBody:
    """A request body made of our own bytes and spans of a spool."""

    def __init__(self, pieces: Sequence[bytes | Span], spool: Spool) -> None:
        self._pieces = pieces
        self._spool = spool

    async def pieces(self) -> AsyncIterator[bytes]:
        """All of it, from the start."""
        for piece in self._pieces:
            if isinstance(piece, bytes):
                yield piece
            else:
                async for data in self._spool.read(piece):
                    yield data
