"""The control plane: every path but plain inference, as one aiohttp application.

Its own answers come from snapshots and cost no engine anything; the calls that manage models
(`router/models`) ask engines.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import web

from ollama_herd import __version__
from ollama_herd.api import merge
from ollama_herd.api.endpoints import INFERENCE
from ollama_herd.api.errors import ApiError
from ollama_herd.api.fleet_status import fleet_status
from ollama_herd.clock import monotonic_s, now_s
from ollama_herd.core.node import NodeReport
from ollama_herd.core.request import Dialect
from ollama_herd.dashboard import routes as dashboard
from ollama_herd.dashboard.login import Login
from ollama_herd.router.admission import ReportRefused, claim_of
from ollama_herd.router.dispatcher import Dispatcher
from ollama_herd.router.explain import BadQuestion, asked
from ollama_herd.router.feed import Feed, LiveParts
from ollama_herd.router.front import (
    DashboardDoor,
    error_response,
    front,
    may_list,
    no_server_name,
    plain_errors,
)
from ollama_herd.router.gate import Gate, plain_address
from ollama_herd.router.keeping import Keeping
from ollama_herd.router.keys import SESSION_S
from ollama_herd.router.models.answers import ModelParts
from ollama_herd.router.models.routes import add_model_routes
from ollama_herd.router.openapi import add_openapi
from ollama_herd.router.records import HealthRecords, StoreRecords
from ollama_herd.router.registry import Registry
from ollama_herd.router.serve import Parts
from ollama_herd.router.slow import BodyRefused, read_body, slow_inference
from ollama_herd.router.watch import Watch
from ollama_herd.router.wire import Limits
from ollama_herd.store.traces import TraceStore
from ollama_herd.tasks import under_way

JSON = "application/json; charset=utf-8"
MAX_REPORT_BYTES = 4 * 1024 * 1024
"""A full report of a node with 2,000 models is about 1 MB."""

Rebind = Callable[[str, str, str], Awaitable[bool]]
"""`rebind(node_id, old_hash, new_hash)`: another key for a node, kept on disk; whether it is so."""

_KEY_HASH = re.compile(r"[0-9a-f]{64}")

_report_decoder = msgspec.json.Decoder(NodeReport)


def control_app(  # noqa: PLR0913 - a part of the router each
    *,
    parts: Parts,
    registry: Registry,
    dispatcher: Dispatcher,
    gate: Gate,
    limits: Limits,
    traces: Callable[[], TraceStore | None],
    watch: Watch,
    changes_allowed: Callable[[], bool],
    rebind: Rebind,
) -> web.Application:
    """Routes of the control plane, and the slow path of inference."""
    app = web.Application(middlewares=[front(gate, parts.keys), plain_errors])
    app.on_response_prepare.append(no_server_name)
    answers = _Answers(registry, dispatcher, limits, parts.upstream.keeping, rebind)
    add = app.router.add_route
    for method in ("GET", "HEAD"):
        add(method, "/", answers.root)
        add(method, "/api/version", answers.version)
        add(method, "/api/tags", answers.tags)
    add("GET", "/api/image-models", answers.image_models)
    add("GET", "/api/status", answers.status)
    add("GET", "/v1/models", answers.models)
    add("GET", "/v1/models/{model}", answers.model)
    add("GET", "/fleet/status", answers.fleet_status)
    add("GET", "/fleet/queue", answers.fleet_queue)
    add("GET", "/fleet/explain", answers.fleet_explain)
    add("POST", "/fleet/heartbeat", answers.heartbeat)
    for path, endpoint in INFERENCE.items():
        add("POST", path.decode(), slow_inference(parts, endpoint, limits))
    add_model_routes(
        app,
        ModelParts(
            upstream=parts.upstream,
            registry=registry,
            limits=limits,
            changes_allowed=changes_allowed,
        ),
    )
    records = StoreRecords(traces, lambda: registry.fleet)
    feed = Feed(LiveParts(lambda: registry.fleet, dispatcher.queue, records.health, watch))
    add("GET", "/metrics", _Metrics(registry, dispatcher, watch, traces, feed).answer)
    dashboard.add(
        app,
        fleet=answers.fleet_json,
        feed=feed,
        records=records,
        health=HealthRecords(watch),
        login=Login(DashboardDoor(parts.keys), SESSION_S),
    )
    add_openapi(app)
    return app


class _Metrics:
    """One scrape at a time; several scrapers wait for each other."""

    def __init__(
        self,
        registry: Registry,
        dispatcher: Dispatcher,
        watch: Watch,
        traces: Callable[[], TraceStore | None],
        feed: Feed,
    ) -> None:
        self._registry = registry
        self._dispatcher = dispatcher
        self._watch = watch
        self._traces = traces
        self._feed = feed
        self._turn = asyncio.Lock()

    async def answer(self, request: web.Request) -> web.Response:
        """Counters and gauges for Prometheus."""
        from ollama_herd.router.metrics import (  # noqa: PLC0415 - loaded only where it is scraped
            Readings,
            exposition,
        )

        async with self._turn:
            store = self._traces()
            readings = Readings(
                version=__version__,
                fleet=self._registry.fleet,
                queue=self._dispatcher.queue(),
                health=self._watch.health,
                traces=None if store is None else store.health(),
                refused_reports=self._registry.admission.refused.total(),
                dashboards=self._feed.subscribers,
                totals=await asyncio.to_thread(self._watch.totals),
                tasks=under_way(),
            )
            accept = request.headers.get("Accept", "")
            content_type, body = await asyncio.to_thread(exposition, readings, accept)
        return _json(body, content_type)


class _Answers:
    """Handlers over the registry's and the dispatcher's snapshots."""

    def __init__(
        self,
        registry: Registry,
        dispatcher: Dispatcher,
        limits: Limits,
        keeping: Keeping,
        rebind: Rebind,
    ) -> None:
        self._rebind = rebind
        self._registry = registry
        self._dispatcher = dispatcher
        self._limits = limits
        self._keeping = keeping

    async def root(self, _request: web.Request) -> web.Response:
        return web.Response(text="Ollama is running", content_type="text/plain", charset="utf-8")

    async def version(self, _request: web.Request) -> web.Response:
        return _json(merge.version(self._registry.fleet))

    async def status(self, _request: web.Request) -> web.Response:
        return _json(b'{"cloud":{"disabled":true,"source":"env"}}')

    async def tags(self, request: web.Request) -> web.Response:
        return _json(merge.tags(self._registry.fleet, may_list(request)))

    async def image_models(self, request: web.Request) -> web.Response:
        return _json(merge.image_models(self._registry.fleet, may_list(request)))

    async def models(self, request: web.Request) -> web.Response:
        return _json(merge.models(self._registry.fleet, may_list(request)), "application/json")

    async def model(self, request: web.Request) -> web.Response:
        found = merge.model(self._registry.fleet, request.match_info["model"], may_list(request))
        if isinstance(found, ApiError):
            return error_response(found, Dialect.OPENAI, request.path)
        return _json(found, "application/json")

    def fleet_json(self) -> bytes:
        """The body of `/fleet/status`."""
        queue, kept = self._dispatcher.queue(), self._keeping.totals()
        view = fleet_status(self._registry.fleet, queue, monotonic_s(), now_s(), kept)
        return msgspec.json.encode(view)

    async def fleet_status(self, _request: web.Request) -> web.Response:
        return _json(self.fleet_json())

    async def fleet_queue(self, _request: web.Request) -> web.Response:
        return _json(msgspec.json.encode(self._dispatcher.queue()))

    async def fleet_explain(self, request: web.Request) -> web.Response:
        try:
            question = asked(request.query)
        except BadQuestion as wrong:
            return _refused(400, str(wrong))
        return _json(msgspec.json.encode(self._dispatcher.explain(question)))

    async def heartbeat(self, request: web.Request) -> web.Response:
        headers = request.headers
        key = headers.get("Authorization", "").removeprefix("Bearer ").strip()
        if not key:
            return _refused(401, "a report needs the node's key: Authorization: Bearer <node_key>")
        try:
            body = await read_body(request, MAX_REPORT_BYTES, self._limits.body_timeout_s)
            report = _report_decoder.decode(body)
            address = plain_address(request.remote or "")
            claim = claim_of(report, address, key, headers.get("X-Herd-Join", ""))
            reply = self._registry.report(report, claim)
        except BodyRefused as refused:
            if refused.error.status != 413:
                raise
            return _refused(413, f"a report is at most {MAX_REPORT_BYTES} bytes")
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            return _refused(400, f"not a node report: {error}")
        except ReportRefused as refused:
            return _refused(403, str(refused))
        # Who showed the key in use says which one follows it; the key itself comes with its first
        # report, once this router has said that it knows it.
        new_hash = headers.get("X-Herd-Next-Key", "")
        if reply.accepted and _KEY_HASH.fullmatch(new_hash):
            is_changed = await self._rebind(claim.node_id, claim.key_hash, new_hash)
            reply = msgspec.structs.replace(reply, is_key_changed=is_changed)
        return _json(msgspec.json.encode(reply))


def _json(body: bytes, content_type: str = JSON) -> web.Response:
    return web.Response(body=body, headers={"Content-Type": content_type})


def _refused(status: int, reason: str) -> web.Response:
    return web.json_response({"error": reason}, status=status)
