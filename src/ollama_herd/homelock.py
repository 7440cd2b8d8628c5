"""One process of a kind for a home folder: a lock file that the system frees when we end.

Two routers on one home would both write its database; two agents would be one node twice.
"""

import os
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

# Windows locks are mandatory: a byte far behind the text stays readable for whoever asks who.
_LOCKED_BYTE = 1 << 30


class HomeInUseError(Exception):
    """Another process holds the lock; `pid` is 0 when it did not say."""

    def __init__(self, path: Path, pid: int) -> None:
        super().__init__(f"{path} is held by process {pid}")
        self.path = path
        self.pid = pid


class HomeLock:
    """Holds `path` from enter to exit; raises HomeInUseError or OSError on enter.

    The file stays when the lock is given back: removing it would let a third process lock a file
    that the second one no longer sees.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1

    def __enter__(self) -> Self:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            _lock(descriptor)
        except OSError as error:
            try:
                raise HomeInUseError(self._path, _read_pid(descriptor)) from error
            finally:
                os.close(descriptor)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        self._descriptor = descriptor
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        failure: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._descriptor)  # frees the lock
        self._descriptor = -1


if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        os.lseek(descriptor, 0, os.SEEK_SET)

else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _read_pid(descriptor: int) -> int:
    os.lseek(descriptor, 0, os.SEEK_SET)
    text = os.read(descriptor, 32).strip()
    return int(text) if text.isdigit() else 0
