"""An upload's place on the disk, given up while a thread is still at it."""

import asyncio
import tempfile
import threading
from pathlib import Path
from typing import IO, Any

import pytest

from ollama_herd.api.forms import Span
from ollama_herd.router.spool import IN_MEMORY_BYTES, Spool

TOO_LONG = b"x" * (IN_MEMORY_BYTES + 1)


class SlowDisk:
    """The edge: a file whose writes wait for leave, and which tells what became of it."""

    def __init__(self, **_where: object) -> None:
        self.begun, self.may_go_on = threading.Event(), threading.Event()
        self.closed = False

    def write(self, data: bytearray) -> int:
        with memoryview(data) as held:  # as a real one holds its buffer for as long
            self.begun.set()
            assert self.may_go_on.wait(10)
            return len(held)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


async def test_a_client_that_leaves_while_the_disk_is_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = SlowDisk()
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: disk)
    spool = Spool(tmp_path)
    appending = asyncio.ensure_future(spool.append(TOO_LONG))
    await asyncio.to_thread(disk.begun.wait, 10)
    appending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await appending
    spool.close()
    disk.may_go_on.set()
    async with asyncio.timeout(10):
        while not disk.closed:  # noqa: ASYNC110 - a thread closes it
            await asyncio.sleep(0.01)


async def test_a_client_that_leaves_before_there_is_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[IO[bytes]] = []
    waits, may_go_on, real = threading.Event(), threading.Event(), tempfile.TemporaryFile

    def late(**where: Any) -> IO[bytes]:
        waits.set()
        assert may_go_on.wait(10)
        made.append(real(**where))
        return made[0]

    monkeypatch.setattr(tempfile, "TemporaryFile", late)
    spool = Spool(tmp_path)
    appending = asyncio.ensure_future(spool.append(TOO_LONG))
    await asyncio.to_thread(waits.wait, 10)
    appending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await appending
    spool.close()
    may_go_on.set()
    async with asyncio.timeout(10):
        while not (made and made[0].closed):  # noqa: ASYNC110 - a thread closes it
            await asyncio.sleep(0.01)


async def test_what_was_written_is_read_until_it_is_closed(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    await spool.append(TOO_LONG)
    await spool.append(b"end")
    await spool.end()
    span = Span(IN_MEMORY_BYTES, 4)
    assert [piece async for piece in spool.read(span)] == [b"xend"]
    spool.close()
    with pytest.raises(OSError, match="lost its end"):
        assert [piece async for piece in spool.read(span)]
