"""The only place that starts asyncio tasks: each has a name, is held, and its failure is logged."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog

_log = structlog.get_logger(__name__)
_held: set[asyncio.Task[Any]] = set()


def spawn(work: Coroutine[Any, Any, Any], *, name: str) -> asyncio.Task[Any]:
    """Start `work` in the running loop and keep it alive until it ends.

    A failure other than cancellation is logged with its traceback: nobody awaits these tasks.
    """
    task = asyncio.get_running_loop().create_task(work, name=name)
    _held.add(task)
    task.add_done_callback(_ended)
    return task


def under_way() -> int:
    """How many have not ended yet."""
    return len(_held)


def _ended(task: asyncio.Task[Any]) -> None:
    _held.discard(task)
    if task.cancelled():
        return
    failure = task.exception()
    if failure is not None:
        _log.error("task failed", task=task.get_name(), exc_info=failure)


async def cancel_and_wait(*running: asyncio.Task[Any] | None) -> None:
    """Cancel the given tasks and wait until each has ended; their results are dropped."""
    alive = [task for task in running if task is not None and not task.done()]
    for task in alive:
        task.cancel()
    await asyncio.gather(*alive, return_exceptions=True)
