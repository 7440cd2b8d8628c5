"""One command, supervised: bounded in time, heard while it runs, ended with all it started."""

import asyncio
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from ollama_herd.agent.services.guard import kill_tree

KEPT_CHARS = 16_384
"""Of what a command prints, its end: a traceback is a few KB."""

END_S = 1.0
"""How long the guard may take to end everything before it is ended itself."""


class Ended(msgspec.Struct, frozen=True):
    """How a command ended: its exit status and the end of its stderr."""

    status: int
    printed: str


class CommandTimeout(Exception):  # noqa: N818 - an outcome, not a defect
    """The command took longer than it may and was ended."""


async def run(
    command: Sequence[str],
    *,
    folder: Path,
    environment: Mapping[str, str],
    within_s: float,
    hear: Callable[[str], None],
) -> Ended:
    """Run `command` in `folder` to its end. `hear` gets what it has printed so far, its end only.

    Cancelled, or when `within_s` is over (CommandTimeout), the command and its children are gone
    when this returns.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        "-m",
        "ollama_herd.agent.services.guard",
        *command,
        cwd=folder,
        env=dict(environment),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=os.name == "posix",
    )
    try:
        async with asyncio.timeout(within_s):
            printed = await _heard(process, hear)
            return Ended(await process.wait(), printed)
    except TimeoutError:
        raise CommandTimeout from None
    finally:
        await end(process)


async def _heard(process: asyncio.subprocess.Process, hear: Callable[[str], None]) -> str:
    printed = ""
    if process.stderr is None:
        return printed
    while data := await process.stderr.read(4096):
        printed = (printed + data.decode("utf-8", "replace"))[-KEPT_CHARS:]
        hear(printed)
    return printed


async def end(process: asyncio.subprocess.Process) -> None:
    """Nothing of it runs afterwards."""
    if process.stdin is not None:
        process.stdin.close()
    if process.returncode is not None:
        return
    ending = asyncio.ensure_future(process.wait())
    done, _ = await asyncio.wait([ending], timeout=END_S)
    if not done:
        kill_tree(process.pid)
        await ending
