"""Work that may block, outside the event loop, in threads that never hold up anything.

A driver or a network file system may hang for ever. The threads of asyncio's own pool are waited
for when the program ends, so one hung call there would keep it alive; these are not.
"""

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar, cast

_T = TypeVar("_T")


def start_in_thread(work: Callable[[], _T], *, name: str) -> asyncio.Future[_T]:
    """Run `work` in a thread of its own; the future belongs to the running loop.

    Cancelling the future gives up on the result, not on the thread.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_T] = loop.create_future()

    def deliver(result: _T | None, failure: BaseException | None) -> None:
        if future.done():
            return
        if failure is not None:
            future.set_exception(failure)
        else:
            future.set_result(cast("_T", result))

    def run() -> None:
        result, failure = None, None
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - whoever awaits the future gets it
            # A future takes any exception but this one.
            failure = RuntimeError(repr(error)) if isinstance(error, StopIteration) else error
        try:
            loop.call_soon_threadsafe(deliver, result, failure)
        except RuntimeError:  # the loop ended while the work hung
            return

    threading.Thread(target=run, name=name, daemon=True).start()
    return future
