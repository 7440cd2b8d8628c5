"""Every path below /dashboard: the pages, their JSON, and the stream of changes.

It knows the router only by the protocols below. What reads the database runs in threads, a few at
a time: dashboards must never take the threads that the router itself needs.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

import msgspec
from aiohttp import web

from ollama_herd.clock import now_s
from ollama_herd.dashboard.answers import (
    RecordsUnavailable,
    bad_field,
    error_answer,
    json_answer,
    parameters,
)
from ollama_herd.dashboard.assets import INDEX, LOGIN_PAGE, NOT_BUILT, SECURITY_HEADERS, Asset, load
from ollama_herd.dashboard.login import LOGIN, Door, Login
from ollama_herd.dashboard.queries import (
    BadField,
    ExportQuery,
    TraceQuery,
    TrendQuery,
    changes_limit,
    export_query,
    trace_query,
    trend_query,
)

READS_AT_ONCE = 4
"""Questions to the database under way at once; the others wait for their turn."""

_EXPORTS = {
    "csv": ("text/csv; charset=utf-8", "csv"),
    "jsonl": ("application/x-ndjson; charset=utf-8", "jsonl"),
}

_Answer = TypeVar("_Answer")


class Subscription(Protocol):
    """One browser's events; None is the end."""

    async def next(self) -> bytes | None: ...
    def leave(self) -> None: ...


class Feed(Protocol):
    """Changes for browsers; None when there are too many of them."""

    def try_subscribe(self) -> Subscription | None: ...
    async def close(self) -> None: ...


class Records(Protocol):
    """JSON from the trace store. All block, and raise RecordsUnavailable and BadField."""

    def page(self, query: TraceQuery) -> bytes: ...
    def one(self, request_id: str) -> bytes | None: ...
    def trend(self, query: TrendQuery) -> bytes: ...
    def export(self, query: TraceQuery, format_: str, count: int) -> tuple[bytes, str, int]:
        """Lines, the cursor behind them ("" at the end), and how many they are."""
        ...

    def export_head(self, format_: str) -> bytes: ...


class HealthRecords(Protocol):
    """JSON of the state of health. `changes` blocks, and raises RecordsUnavailable."""

    def now(self) -> bytes: ...
    def changes(self, limit: int) -> bytes: ...


def add(
    app: web.Application,
    *,
    fleet: Callable[[], bytes],
    feed: Feed,
    records: Records,
    health: HealthRecords,
    login: Login,
) -> None:
    """Add all routes to the control plane. `fleet` is `/fleet/status` as JSON."""
    pages, data = _Pages(), _Data(fleet, feed, records, health, login.door)
    for path, handler in (
        ("/dashboard", pages.index),
        (LOGIN, pages.login),
        ("/dashboard/assets/{name}", pages.asset),
        ("/dashboard/api/fleet", data.fleet),
        ("/dashboard/api/traces", data.traces),
        ("/dashboard/api/traces/export", data.export),
        ("/dashboard/api/traces/{request_id}", data.trace),
        ("/dashboard/api/trends", data.trends),
        ("/dashboard/api/health", data.health),
        ("/dashboard/api/health/changes", data.health_changes),
        ("/dashboard/events", data.events),
        ("/dashboard/api/session", login.session),
    ):
        app.router.add_route("GET", path, handler)
    app.router.add_route("POST", LOGIN, login.enter)
    app.router.add_route("POST", "/dashboard/logout", login.leave)
    app.on_response_prepare.append(_secure)
    app.on_shutdown.append(data.shut_down)


class _Pages:
    """Built files from memory."""

    def __init__(self) -> None:
        self._files: Mapping[str, Asset] = {}

    async def index(self, request: web.Request) -> web.Response:
        """The dashboard; a plain page when it was not built."""
        return await self._page(request, INDEX)

    async def login(self, request: web.Request) -> web.Response:
        """The page that asks for an API key."""
        return await self._page(request, LOGIN_PAGE)

    async def asset(self, request: web.Request) -> web.Response:
        """A script, style, font or image of the dashboard."""
        files = await self._loaded()
        found = files.get(f"assets/{request.match_info['name']}")
        if found is None:
            return web.Response(text="404 page not found", status=404)
        return _file(request, found)

    async def _page(self, request: web.Request, name: str) -> web.Response:
        files = await self._loaded()
        if name not in files:
            return web.Response(text=NOT_BUILT, status=503)
        return _file(request, files[name])

    async def _loaded(self) -> Mapping[str, Asset]:
        """Looked for again until they are there: `make web` may still be running."""
        if not self._files:
            self._files = await asyncio.to_thread(load)
        return self._files


class _Data:
    """JSON and the stream of changes."""

    def __init__(
        self,
        fleet: Callable[[], bytes],
        feed: Feed,
        records: Records,
        health: HealthRecords,
        door: Door,
    ) -> None:
        self._fleet = fleet
        self._feed = feed
        self._records = records
        self._health = health
        self._door = door
        self._turns = asyncio.Semaphore(READS_AT_ONCE)

    async def fleet(self, _request: web.Request) -> web.Response:
        """All nodes, engines, models and queues now."""
        return json_answer(self._fleet())

    async def traces(self, request: web.Request) -> web.Response:
        """Requests that have ended, newest first, filtered."""
        try:
            query = trace_query(parameters(request))
            return json_answer(await self._read(lambda: self._records.page(query)))
        except BadField as bad:
            return bad_field(bad)
        except RecordsUnavailable as unavailable:
            return error_answer(503, "traces_unavailable", str(unavailable))

    async def export(self, request: web.Request) -> web.StreamResponse:
        """All requests that match the filters, as CSV or as a JSON object a line."""
        try:
            query = export_query(parameters(request))
            lines, cursor, count = await self._lines(query, query.page, query.limit)
        except BadField as bad:
            return bad_field(bad)
        except RecordsUnavailable as unavailable:
            return error_answer(503, "traces_unavailable", str(unavailable))
        content_type, ending = _EXPORTS[query.format]
        disposition = f'attachment; filename="herd-traces.{ending}"'
        response = web.StreamResponse(
            headers={"Content-Type": content_type, "Content-Disposition": disposition}
        )
        try:
            await response.prepare(request)
            await response.write(self._records.export_head(query.format) + lines)
            left = query.limit - count
            while cursor and left > 0:
                page = msgspec.structs.replace(query.page, before=cursor)
                lines, cursor, count = await self._lines(query, page, left)
                await response.write(lines)
                left -= count
            await response.write_eof()
        except RecordsUnavailable:  # too late for a status: what is cut off must look cut off
            if request.transport is not None:
                request.transport.abort()
        except ConnectionResetError:  # the browser has left
            pass
        return response

    async def _lines(
        self, query: ExportQuery, page: TraceQuery, left: int
    ) -> tuple[bytes, str, int]:
        return await self._read(lambda: self._records.export(page, query.format, left))

    async def trace(self, request: web.Request) -> web.Response:
        """One request: its decision with all candidates, its attempts, its times."""
        request_id = request.match_info["request_id"]
        try:
            found = await self._read(lambda: self._records.one(request_id))
        except RecordsUnavailable as unavailable:
            return error_answer(503, "traces_unavailable", str(unavailable))
        if found is None:
            reason = "no such request: it may have been longer ago than traces are kept"
            return error_answer(404, "unknown_request", reason)
        return json_answer(found)

    async def trends(self, request: web.Request) -> web.Response:
        """Requests, tokens and times to first token by minute or hour."""
        try:
            query = trend_query(parameters(request), now_s())
            return json_answer(await self._read(lambda: self._records.trend(query)))
        except BadField as bad:
            return bad_field(bad)
        except RecordsUnavailable as unavailable:
            return error_answer(503, "traces_unavailable", str(unavailable))

    async def health(self, _request: web.Request) -> web.Response:
        """All health checks: what each of them sees, since when, and what to do."""
        return json_answer(self._health.now())

    async def health_changes(self, request: web.Request) -> web.Response:
        """What changed in the state of health, newest first."""
        try:
            limit = changes_limit(parameters(request))
            return json_answer(await self._read(lambda: self._health.changes(limit)))
        except BadField as bad:
            return bad_field(bad)
        except RecordsUnavailable as unavailable:
            return error_answer(503, "traces_unavailable", str(unavailable))

    async def events(self, request: web.Request) -> web.StreamResponse:
        """Server-sent events: the whole state, then what changes, while the key is good."""
        subscription = self._feed.try_subscribe()
        if subscription is None:
            reason = "too many dashboards are open; close one, or ask again later"
            return error_answer(503, "too_many_dashboards", reason)
        try:
            headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
            response = web.StreamResponse(headers=headers)
            response.content_type = "text/event-stream"
            await response.prepare(request)
            while (event := await subscription.next()) is not None:
                if not self._door.lets_in(request):
                    break
                await response.write(event)
        except ConnectionResetError:  # the browser left while an event was under way
            pass
        finally:
            subscription.leave()
        return response

    async def shut_down(self, _app: web.Application) -> None:
        """Streams end at once: a router that stops must not wait for browsers."""
        await self._feed.close()

    async def _read(self, read: Callable[[], _Answer]) -> _Answer:
        async with self._turns:
            return await asyncio.to_thread(read)


def _file(request: web.Request, asset: Asset) -> web.Response:
    caching = "public, max-age=31536000, immutable" if asset.is_hashed else "no-cache"
    headers = {"ETag": asset.etag, "Cache-Control": caching, "Content-Type": asset.content_type}
    if request.headers.get("If-None-Match") == asset.etag:
        return web.Response(status=304, headers=headers)
    return web.Response(body=asset.body, headers=headers)


async def _secure(request: web.Request, response: web.StreamResponse) -> None:
    if request.path.startswith("/dashboard"):
        response.headers.update(SECURITY_HEADERS)
