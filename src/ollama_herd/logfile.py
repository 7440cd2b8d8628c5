"""The log as a file: one JSON object a line, rotated by size, written behind everybody's back.

Lines wait in a bounded queue for a thread of their own: a slow or full disk holds nothing up and
costs log lines only.
"""

import atexit
import contextlib
import logging
import os
import queue
from collections.abc import MutableMapping
from logging.handlers import QueueHandler, QueueListener, RotatingFileHandler
from pathlib import Path
from typing import Any

import structlog
from structlog.typing import Processor

MAX_WAITING = 10_000
"""Lines that wait for the disk; more are dropped."""

FILES_KEPT = 5
"""Beside the one that is written: `herd.log.1` is the youngest."""


class LogFile:
    """`path` is made for its owner only. Raises OSError when it cannot be opened."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        self._file = _Quiet(
            path, maxBytes=max_bytes, backupCount=FILES_KEPT, encoding="utf-8", errors="replace"
        )
        self._file.setFormatter(logging.Formatter("%(message)s"))
        self.handler = _Waiting(queue.Queue(MAX_WAITING))
        self._writer = QueueListener(self.handler.queue, self._file)
        self._writer.start()
        atexit.register(self.close)

    def processor(self) -> Processor:
        """Copies each of our events into the file and passes it on as it is."""

        def copy(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> Any:
            level = logging.getLevelNamesMapping().get(str(event.get("level", "info")).upper(), 20)
            line = _as_json(dict(event))
            self.handler.enqueue(logging.LogRecord("herd", level, "", 0, line, None, None))
            return event

        return copy

    def close(self) -> None:
        """Write what waits."""
        if self._writer._thread is not None:  # noqa: SLF001 - stopping twice is an error before 3.14
            self._writer.stop()
        self._file.close()


def json_formatter(shared: list[Processor]) -> logging.Formatter:
    """For lines of libraries."""
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _Json()],
    )


class _Json:
    def __call__(self, _logger: Any, _name: str, event: MutableMapping[str, Any]) -> str:
        return _as_json(dict(event))


_STAMP = structlog.processors.TimeStamper(fmt="iso", utc=True, key="time")
_RENDER = structlog.processors.JSONRenderer(ensure_ascii=False, default=str)


def _as_json(event: dict[str, Any]) -> str:
    """Time first, then level and event. A traceback is code only, as on the console."""
    event.pop("timestamp", None)
    stamped = _STAMP(None, "", {})
    told = structlog.processors.format_exc_info(None, "", event)
    first = {key: told.pop(key) for key in ("level", "event") if key in told}
    # Its type allows bytes as well, which other serializers make.
    line: str = _RENDER(None, "", {**stamped, **first, **told})  # type: ignore[assignment]
    return line


class _Waiting(QueueHandler):
    """Formats here, where the exception still is; what does not fit is dropped."""

    def enqueue(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(queue.Full):
            self.queue.put_nowait(record)


class _Quiet(RotatingFileHandler):
    """A line that cannot be written is lost: to say so here would be the next one."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802 - logging's name
        return
