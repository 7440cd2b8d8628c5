"""What both processes print about themselves: structured lines on stderr.

Set up once by the command line. Prompts and answers never get here: nobody logs them, and a
traceback shows code only, never the values of variables.
"""

import logging
import sys

import structlog
from structlog.typing import Processor

_QUIET = ("aiohttp.access", "alembic", "asyncio", "zeroconf")
"""Libraries whose everyday messages mean nothing to a user; their warnings are shown."""


_QUOTES_BYTES = "aiohttp.http_exceptions"
"""Errors from here quote what came over the wire: a header with a key, a piece of a prompt."""


def setup(level: str) -> None:
    """Send our log and the log of libraries to stderr; `level` as in the settings."""
    least = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="%Y-%m-%d %H:%M:%S", utc=False),
    ]
    # plain_traceback: Rich's would print local variables, and with them people's prompts.
    renderer = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty() and sys.platform != "win32",
        pad_event_to=0,
        exception_formatter=structlog.dev.plain_traceback,
    )
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(least),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_without_wire_bytes)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(least)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(least, logging.WARNING))


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
