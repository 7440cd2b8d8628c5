"""Connections that the data plane has handed over, as aiohttp serves them.

aiohttp keeps what is wrong in the middle of a body for the next answer, and its handler waits for
the rest of the body meanwhile. Here the reader of that body hears of it at once; should an aiohttp
to come keep it in another place, the body's timeout ends the wait.
"""

import asyncio
import logging
from typing import Any, TypedDict

from aiohttp import web
from aiohttp.http_parser import RawRequestMessage

from ollama_herd.api.errors import BAD_CHUNK
from ollama_herd.router.slow import BodyRefused


class Options(TypedDict):
    """How aiohttp serves a connection: arguments of its handler."""

    auto_decompress: bool
    logger: logging.Logger
    keepalive_timeout: float
    lingering_time: float
    max_line_size: int
    max_field_size: int


class HandedOver(web.RequestHandler):
    """aiohttp's side of one connection."""

    __slots__ = ()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        waiting = getattr(self, "_messages", None)
        if not waiting or isinstance(waiting[-1][0], RawRequestMessage):
            return
        request: web.BaseRequest | None = getattr(self, "_current_request", None)
        body = None if request is None else request.content
        if len(waiting) > 1:
            body = waiting[-2][1]
        if body is not None and not body.is_eof():
            body.set_exception(BodyRefused(BAD_CHUNK))


def handed_over(server: web.Server, options: Options) -> HandedOver:
    """The protocol of one more connection."""
    no_log: Any = None  # which aiohttp takes, and does not name in its types
    return HandedOver(server, loop=asyncio.get_running_loop(), access_log=no_log, **options)
