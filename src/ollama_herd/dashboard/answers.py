"""Answers of the dashboard's own paths, and what a question may look like."""

import asyncio
from collections.abc import Mapping

from aiohttp import web

from ollama_herd.dashboard.queries import BadField

JSON = "application/json; charset=utf-8"

READ_S = 10.0
"""For a short body to come."""


class RecordsUnavailable(Exception):  # noqa: N818 - an answer to a browser, not a defect
    """The database cannot be asked now; the message says why and what to do."""


def parameters(request: web.Request) -> Mapping[str, str]:
    """The query without empty values. Raises BadField for one that is there twice."""
    given: dict[str, str] = {}
    for name, value in request.query.items():
        if name in given:
            raise BadField(name[:40], "given more than once")
        given[name] = value
    return {name: value for name, value in given.items() if value}


async def short_body(request: web.Request, most_bytes: int) -> bytes:
    """The body as far as it may be of interest, which is one byte more than it may have; b"" when
    it does not come.
    """
    body = b""
    try:
        async with asyncio.timeout(READ_S):
            while not request.content.at_eof() and len(body) <= most_bytes:
                body += await request.content.read(most_bytes + 1 - len(body))
    except TimeoutError:
        return b""
    return body


def json_answer(body: bytes, status: int = 200) -> web.Response:
    headers = {"Content-Type": JSON, "Cache-Control": "no-store"}
    return web.Response(body=body, status=status, headers=headers)


def bad_field(bad: BadField, code: str = "bad_filter") -> web.Response:
    return web.json_response({"error": str(bad), "code": code, "field": bad.field}, status=400)


def error_answer(status: int, code: str, reason: str) -> web.Response:
    return web.json_response({"error": reason, "code": code}, status=status)
