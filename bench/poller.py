"""Readiness of sockets by number: epoll where it exists, poll elsewhere.

asyncio and selectors cost several microseconds an event; the load must be cheaper than the
proxies it measures.
"""

import select
from typing import Protocol

READ = 0x001  # POLLIN and EPOLLIN; the same numbers on Linux, macOS and the BSDs
WRITE = 0x004  # POLLOUT and EPOLLOUT


class Poller(Protocol):
    """What `select.epoll` gives; the timeout is in seconds, None waits for ever."""

    def register(self, fd: int, eventmask: int = ..., /) -> None: ...
    def modify(self, fd: int, eventmask: int, /) -> None: ...
    def unregister(self, fd: int, /) -> None: ...
    def poll(self, timeout: float | None = None, maxevents: int = -1) -> list[tuple[int, int]]: ...


class _Poll:
    """`select.poll` with epoll's unit of time."""

    def __init__(self) -> None:
        poll = select.poll()
        self.register = poll.register
        self.modify = poll.modify
        self.unregister = poll.unregister
        self._poll = poll.poll

    def poll(self, timeout: float | None = None, maxevents: int = -1) -> list[tuple[int, int]]:
        _ = maxevents
        return self._poll(None if timeout is None else timeout * 1000)


def new_poller() -> Poller:
    if hasattr(select, "epoll"):
        return select.epoll()
    if hasattr(select, "poll"):
        return _Poll()
    raise SystemExit("the bench needs epoll or poll; Windows has neither: run it in WSL")
