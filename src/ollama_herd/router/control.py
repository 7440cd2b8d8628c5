"""The control plane: every path but plain inference, as one aiohttp application.

Its own answers come from snapshots and cost no engine anything; the calls that manage models
(`router/models`) ask engines.
"""

from collections.abc import Callable

import msgspec
import structlog
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from ollama_herd.api import merge
from ollama_herd.api.endpoints import INFERENCE, dialect_of
from ollama_herd.api.errors import (
    ApiError,
    method_not_allowed,
    not_found,
    render,
)
from ollama_herd.api.fleet_status import fleet_status
from ollama_herd.api.origin import preflight_headers
from ollama_herd.clock import monotonic_s, now_s
from ollama_herd.core.node import NodeReport
from ollama_herd.core.request import Dialect
from ollama_herd.dashboard import routes as dashboard
from ollama_herd.router.dispatcher import Dispatcher
from ollama_herd.router.explain import BadQuestion, asked
from ollama_herd.router.feed import Feed, LiveParts
from ollama_herd.router.gate import Gate
from ollama_herd.router.models.answers import ModelParts
from ollama_herd.router.models.routes import add_model_routes
from ollama_herd.router.records import StoreRecords
from ollama_herd.router.registry import Registry, ReportRefused
from ollama_herd.router.reply import Headers
from ollama_herd.router.serve import Parts
from ollama_herd.router.slow import BodyRefused, read_body, slow_inference
from ollama_herd.router.wire import Limits
from ollama_herd.store.traces import TraceStore

_log = structlog.get_logger(__name__)

JSON = "application/json; charset=utf-8"
MAX_REPORT_BYTES = 4 * 1024 * 1024
"""A full report of a node with 2,000 models is about 1 MB."""

_report_decoder = msgspec.json.Decoder(NodeReport)


def control_app(
    *,
    parts: Parts,
    registry: Registry,
    dispatcher: Dispatcher,
    gate: Gate,
    limits: Limits,
    traces: Callable[[], TraceStore | None],
    changes_allowed: bool = True,
) -> web.Application:
    """Routes of the control plane, and the slow path of inference."""
    app = web.Application(middlewares=[_front(gate), _plain_errors])
    app.on_response_prepare.append(_no_server_name)
    answers = _Answers(registry, dispatcher, limits)
    add = app.router.add_route
    for method in ("GET", "HEAD"):
        add(method, "/", answers.root)
        add(method, "/api/version", answers.version)
        add(method, "/api/tags", answers.tags)
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
            gate=gate,
            limits=limits,
            changes_allowed=changes_allowed,
        ),
    )
    records = StoreRecords(traces, lambda: registry.fleet)
    feed = Feed(LiveParts(lambda: registry.fleet, dispatcher.queue, records.health))
    dashboard.add(app, fleet=answers.fleet_json, feed=feed, records=records)
    return app


class _Answers:
    """Handlers over the registry's and the dispatcher's snapshots."""

    def __init__(self, registry: Registry, dispatcher: Dispatcher, limits: Limits) -> None:
        self._registry = registry
        self._dispatcher = dispatcher
        self._limits = limits

    async def root(self, _request: web.Request) -> web.Response:
        return web.Response(text="Ollama is running", content_type="text/plain", charset="utf-8")

    async def version(self, _request: web.Request) -> web.Response:
        return _json(merge.version(self._registry.fleet))

    async def status(self, _request: web.Request) -> web.Response:
        return _json(b'{"cloud":{"disabled":true,"source":"env"}}')

    async def tags(self, _request: web.Request) -> web.Response:
        return _json(merge.tags(self._registry.fleet))

    async def models(self, _request: web.Request) -> web.Response:
        return _json(merge.models(self._registry.fleet), "application/json")

    async def model(self, request: web.Request) -> web.Response:
        found = merge.model(self._registry.fleet, request.match_info["model"])
        if isinstance(found, ApiError):
            return _error(found, Dialect.OPENAI, request.path)
        return _json(found, "application/json")

    def fleet_json(self) -> bytes:
        """The body of `/fleet/status`."""
        view = fleet_status(self._registry.fleet, self._dispatcher.queue(), monotonic_s(), now_s())
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
        key = request.headers.get("Authorization", "").removeprefix("Bearer ").strip()
        if not key:
            return _refused(401, "a report needs the node's key: Authorization: Bearer <node_key>")
        try:
            body = await read_body(request, MAX_REPORT_BYTES, self._limits.body_timeout_s)
            report = _report_decoder.decode(body)
            reply = self._registry.report(report, request.remote or "", key)
        except BodyRefused as refused:
            if refused.error.status != 413:
                raise
            return _refused(413, f"a report is at most {MAX_REPORT_BYTES} bytes")
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            return _refused(400, f"not a node report: {error}")
        except ReportRefused as refused:
            return _refused(403, str(refused))
        return _json(msgspec.json.encode(reply))


def _json(body: bytes, content_type: str = JSON) -> web.Response:
    return web.Response(body=body, headers={"Content-Type": content_type})


def _refused(status: int, reason: str) -> web.Response:
    return web.json_response({"error": reason}, status=status)


def _error(error: ApiError, dialect: Dialect, path: str) -> web.Response:
    status, content_type, body = render(error, dialect, path)
    headers = {"Content-Type": content_type.decode()}
    if error.allow:
        headers["Allow"] = error.allow
    return web.Response(status=status, body=body, headers=headers)


def _front(gate: Gate) -> Middleware:
    """Origins, preflights and unclean paths, before any route is looked at."""

    @web.middleware
    async def front(request: web.Request, handler: Handler) -> web.StreamResponse:
        allowed = gate([(name.lower(), value) for name, value in request.raw_headers])
        if allowed is None:
            return web.Response(status=403)
        if request.method == "OPTIONS" and allowed:
            headers = preflight_headers(request.headers["Origin"])
            return web.Response(status=204, headers=_text(headers))
        moved = await _moved(request)
        if moved is not None:
            return moved
        response = await handler(request)
        if not response.prepared:
            response.headers.update(_text(allowed))
        return response

    return front


async def _no_server_name(_request: web.Request, response: web.StreamResponse) -> None:
    """A real Ollama does not name its server."""
    response.headers.popall("Server", None)


def _text(headers: Headers) -> dict[str, str]:
    return {name.decode(): value.decode("latin-1") for name, value in headers}


async def _moved(request: web.Request) -> web.Response | None:
    """Where a path with doubled or trailing slashes is sent, as Ollama does.

    Its mux cleans doubled slashes on every path; a trailing one moves only to a path it knows.
    """
    path = request.rel_url.raw_path
    clean = "/" + "/".join(part for part in path.split("/") if part)
    if clean == path or request.method == "OPTIONS":
        return None
    if "//" not in path:
        route = await request.app.router.resolve(request.clone(rel_url=clean))
        if isinstance(route.http_exception, web.HTTPNotFound):
            return None
    query = request.rel_url.raw_query_string
    permanent = request.method == "GET" and "//" not in path
    return web.Response(
        status=301 if permanent else 307,
        headers={"Location": f"{clean}?{query}" if query else clean},
    )


@web.middleware
async def _plain_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Unknown paths and wrong methods get the plain texts of a real Ollama."""
    try:
        return await handler(request)
    except web.HTTPNotFound:
        return _error(not_found(), Dialect.OLLAMA, request.path)
    except web.HTTPMethodNotAllowed as refused:
        error = method_not_allowed(", ".join(sorted(refused.allowed_methods)))
        return _error(error, Dialect.OLLAMA, request.path)
    except BodyRefused as refused:
        response = _error(refused.error, dialect_of(request.path), request.path)
        response.force_close()
        return response
    except web.HTTPException:
        raise
    except Exception:  # noqa: BLE001 - the control plane's boundary: a defect costs one request
        _log.exception("request failed", path=request.path)
        error = ApiError(500, "the herd itself failed on this request; see its log", "internal")
        return _error(error, dialect_of(request.path), request.path)
