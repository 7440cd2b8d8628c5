"""What both processes print about themselves: structured lines on stderr.

Set up once by the command line. Prompts and answers never get here: nobody logs them, and a
traceback shows code only, never the values of variables.
"""

import contextlib
import logging
import os
import sys
from collections.abc import Callable
from typing import TextIO, cast

import structlog
from structlog.typing import Processor

from ollama_herd.logfile import LogFile, json_formatter

_QUIET = ("aiohttp.access", "alembic", "asyncio", "urllib3", "zeroconf")
"""Libraries whose everyday messages mean nothing to a user; their warnings are shown."""


_QUOTES_BYTES = "aiohttp.http_exceptions"
"""Errors from here quote what came over the wire: a header with a key, a piece of a prompt."""


class _Lossy:
    """stderr, of which no write fails: when nobody reads it any more the work goes on.

    A broken pipe stays broken, so the descriptor is then given to nothing. A full disk may have
    room again, so that only loses the line.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._keep_on(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._keep_on(self._stream.flush)

    def _keep_on(self, do: Callable[[], object]) -> None:
        try:
            do()
        except BrokenPipeError:
            with contextlib.suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)
        except (OSError, ValueError):
            pass  # lost, and there is nowhere to say so


def setup(level: str, file: LogFile | None = None) -> None:
    """Send our log and the log of libraries to stderr, and to `file` as JSON; `level` as in the
    settings.
    """
    least = logging.getLevelNamesMapping()[level.upper()]
    stderr = cast("TextIO", _Lossy(sys.stderr))
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="%Y-%m-%d %H:%M:%S", utc=False),
    ]
    rendered = _rendered()
    structlog.configure(
        processors=[*shared, *([file.processor()] if file is not None else []), *rendered],
        wrapper_class=structlog.make_filtering_bound_logger(least),
        logger_factory=structlog.PrintLoggerFactory(stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stderr)
    handler.addFilter(_without_wire_bytes)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendered],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    if file is not None:
        file.handler.addFilter(_without_wire_bytes)
        file.handler.setFormatter(json_formatter(shared))
        root.addHandler(file.handler)
    root.setLevel(least)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(least, logging.WARNING))


def _rendered() -> list[Processor]:
    """For a person at a terminal by Rich, for a pipe or a journal as plain lines."""
    if sys.stderr.isatty():
        from ollama_herd.terminal import TerminalRenderer  # noqa: PLC0415 - slow, and only here

        renderer = TerminalRenderer(sys.stderr)
        if renderer.is_usable:
            return [structlog.processors.format_exc_info, renderer]
    # plain_traceback: Rich's would print local variables, and with them people's prompts.
    return [
        structlog.dev.ConsoleRenderer(
            colors=False, pad_event_to=0, exception_formatter=structlog.dev.plain_traceback
        )
    ]


def _without_wire_bytes(record: logging.LogRecord) -> bool:
    """Let a request that is not HTTP be a detail, and keep what was in it to ourselves."""
    failure = record.exc_info[1] if record.exc_info else None
    while failure is not None:
        if type(failure).__module__ == _QUOTES_BYTES:
            record.msg, record.args = "a peer sent what is not HTTP: %s", (type(failure).__name__,)
            record.exc_info, record.exc_text = None, None
            record.levelno, record.levelname = logging.DEBUG, "DEBUG"
            return logging.getLogger().isEnabledFor(logging.DEBUG)
        failure = failure.__cause__ or failure.__context__
    return True
