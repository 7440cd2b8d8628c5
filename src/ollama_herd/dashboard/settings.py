"""Settings below /dashboard/api: what they are, who changed them, and changing them."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec
from aiohttp import web

from ollama_herd.dashboard.answers import (
    RecordsUnavailable,
    bad_field,
    error_answer,
    json_answer,
    parameters,
    short_body,
)
from ollama_herd.dashboard.queries import BadField, changes_limit

MAX_CHANGE_BYTES = 4096
"""Of a body that changes one setting."""


class SettingRecords(Protocol):
    """JSON of settings. All raise BadField and RecordsUnavailable; `changes` blocks."""

    def all(self) -> bytes: ...
    async def change(self, name: str, value: object, request: web.Request) -> bytes: ...
    async def reset(self, name: str, request: web.Request) -> bytes: ...
    def changes(self, limit: int) -> bytes: ...


def add_setting_routes(app: web.Application, records: SettingRecords) -> None:
    """Reading them is for everybody who sees the dashboard, changing them is an admin's."""
    settings = _Settings(records)
    add = app.router.add_route
    add("GET", "/dashboard/api/settings", settings.all)
    add("GET", "/dashboard/api/settings/changes", settings.changes)
    add("PUT", "/dashboard/api/settings/{name}", settings.change)
    add("DELETE", "/dashboard/api/settings/{name}", settings.reset)


class _Settings:
    def __init__(self, records: SettingRecords) -> None:
        self._records = records

    async def all(self, _request: web.Request) -> web.Response:
        """All settings of the router: values, where they come from, which may be changed."""
        return json_answer(self._records.all())

    async def changes(self, request: web.Request) -> web.Response:
        """Who changed which setting, newest first."""

        async def read() -> bytes:
            limit = changes_limit(parameters(request))
            return await asyncio.to_thread(self._records.changes, limit)

        return await _answered(read)

    async def change(self, request: web.Request) -> web.Response:
        """Give a setting another value, from now on: `{"value": …}`."""

        async def change() -> bytes:
            value = await _value(request)
            return await self._records.change(request.match_info["name"], value, request)

        return await _answered(change)

    async def reset(self, request: web.Request) -> web.Response:
        """Let a setting be what is configured again."""
        name = request.match_info["name"]
        return await _answered(lambda: self._records.reset(name, request))


async def _answered(work: Callable[[], Awaitable[bytes]]) -> web.Response:
    try:
        return json_answer(await work())
    except BadField as bad:
        return bad_field(bad, "bad_setting")
    except RecordsUnavailable as unavailable:
        return error_answer(503, "settings_unavailable", str(unavailable))


async def _value(request: web.Request) -> object:
    """The value in a body. Raises BadField."""
    if request.content_type != "application/json":
        raise BadField("value", "send it as JSON, with Content-Type: application/json")
    body = await short_body(request, MAX_CHANGE_BYTES)
    try:
        sent = msgspec.json.decode(body) if len(body) <= MAX_CHANGE_BYTES else None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        sent = None
    if not isinstance(sent, dict) or list(sent) != ["value"]:
        raise BadField("value", 'send {"value": …} and nothing else')
    value: object = sent["value"]
    return value
