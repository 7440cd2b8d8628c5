"""What every request of the control plane passes first: the gate, preflights, unclean paths."""

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from ollama_herd.api.access import OWNER_ONLY, needed_scope
from ollama_herd.api.dialects import dialect_of
from ollama_herd.api.errors import (
    CODING,
    FOREIGN_ORIGIN,
    ApiError,
    method_not_allowed,
    not_found,
    render,
)
from ollama_herd.api.merge import MayList
from ollama_herd.api.origin import preflight_headers
from ollama_herd.core.access import ApiKey, Scope
from ollama_herd.core.request import Dialect
from ollama_herd.dashboard.login import LOGIN
from ollama_herd.router.gate import Gate, is_loopback
from ollama_herd.router.keys import KeyRing
from ollama_herd.router.reply import Headers
from ollama_herd.router.slow import BodyRefused

_log = structlog.get_logger(__name__)

CORS = web.RequestKey("cors", Headers)
"""Under this key a request carries the headers that its answer needs for its origin."""

API_KEY = web.RequestKey("api_key", ApiKey)
"""Under this one, where keys are needed and the route asks for one, whose key it showed."""

_OUR_PATHS = ("/fleet", "/dashboard")
"""Below these nothing is Ollama's, so no page but our own has a reason to change anything."""


class DashboardDoor:
    """Who may look at the dashboard, as `dashboard.login.Door` wants to know it."""

    def __init__(self, keys: KeyRing) -> None:
        self._keys = keys

    def log_in(self, key: str) -> str | None:
        return self._keys.log_in(key)

    def name(self, request: web.Request) -> str:
        key = request.get(API_KEY)
        return "" if key is None else key.name

    def lets_in(self, request: web.Request) -> bool:
        keys = self._keys
        return not keys.are_needed or _lacking(keys, _lower(request), request) is None


def front(gate: Gate, keys: KeyRing) -> Middleware:
    """Who may come in, preflights and unclean paths, before any route is looked at."""

    @web.middleware
    async def come_in(request: web.Request, handler: Handler) -> web.StreamResponse:
        headers = _lower(request)
        allowed = gate(headers, request.remote or "")
        if not isinstance(allowed, ApiError) and _is_foreign_change(gate, request):
            allowed = FOREIGN_ORIGIN
        if not isinstance(allowed, ApiError) and _is_owners_alone(keys, request):
            allowed = OWNER_ONLY
        if keys.are_needed and not isinstance(allowed, ApiError) and request.method != "OPTIONS":
            lacking = _lacking(keys, headers, request)
            if lacking is not None and request.path == "/dashboard":
                return web.Response(status=303, headers={"Location": LOGIN})
            allowed = lacking or allowed
        if isinstance(allowed, ApiError):
            return error_response(allowed, dialect_of(request.path), request.path)
        request[CORS] = allowed
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

    return come_in


def _lower(request: web.Request) -> list[tuple[bytes, bytes]]:
    return [(name.lower(), value) for name, value in request.raw_headers]


def _refuse_packed(request: web.Request) -> None:
    """Raises BodyRefused where another transfer coding than chunked lies over the body."""
    coding = request.headers.get("Transfer-Encoding", "chunked")
    if coding.strip().lower() != "chunked":
        raise BodyRefused(CODING)


def _is_owners_alone(keys: KeyRing, request: web.Request) -> bool:
    """Without keys, what would need the highest scope is for this machine only."""
    if keys.are_needed or is_loopback(request.remote or ""):
        return False
    return _needed(request) is Scope.ADMIN


def _needed(request: web.Request) -> Scope | None:
    resource = request.match_info.route.resource
    return needed_scope(request.method, "" if resource is None else resource.canonical)


def _lacking(keys: KeyRing, headers: Headers, request: web.Request) -> ApiError | None:
    """Why the key of the request, or the lack of one, does not open this route; one that does is
    kept with the request.
    """
    needed = _needed(request)
    if needed is None:
        return None
    caller = keys.caller(headers, needed)
    if isinstance(caller, ApiError):
        return caller
    request[API_KEY] = caller.key
    return None


def may_list(request: web.Request) -> MayList | None:
    """The models that the key of the request is good for, None for all."""
    key = request.get(API_KEY)
    return key.may_use if key is not None and key.models else None


def _is_foreign_change(gate: Gate, request: web.Request) -> bool:
    """Whether a page that is not ours wants to change what no page of Ollama's clients changes."""
    if request.method in ("GET", "HEAD", "OPTIONS") or not request.path.startswith(_OUR_PATHS):
        return False
    origin = request.headers.get("Origin", "")
    if not origin:
        return request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin")
    return not gate.is_own_page(origin, request.headers.get("Host", ""))


async def no_server_name(_request: web.Request, response: web.StreamResponse) -> None:
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
    if clean == path or request.method in ("OPTIONS", "CONNECT"):
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
async def plain_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Unknown paths and wrong methods get the plain texts of a real Ollama."""
    try:
        _refuse_packed(request)
        return await handler(request)
    except web.HTTPNotFound:
        return error_response(not_found(), Dialect.OLLAMA, request.path)
    except web.HTTPMethodNotAllowed as refused:
        error = method_not_allowed(", ".join(sorted(refused.allowed_methods)))
        return error_response(error, Dialect.OLLAMA, request.path)
    except BodyRefused as refused:
        response = error_response(refused.error, dialect_of(request.path), request.path)
        response.force_close()
        return response
    except web.HTTPException:
        raise
    except Exception:  # noqa: BLE001 - the control plane's boundary: a defect costs one request
        _log.exception("request failed", path=request.path)
        error = ApiError(500, "the herd itself failed on this request; see its log", "internal")
        return error_response(error, dialect_of(request.path), request.path)


def error_response(error: ApiError, dialect: Dialect, path: str) -> web.Response:
    """`error` in the caller's dialect, with the headers that belong to it."""
    status, content_type, body = render(error, dialect, path)
    headers = {"Content-Type": content_type.decode()} if body else {}
    if error.retry_after_s:
        headers["Retry-After"] = str(error.retry_after_s)
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if error.allow:
        headers["Allow"] = error.allow
    return web.Response(status=status, body=body, headers=headers)
