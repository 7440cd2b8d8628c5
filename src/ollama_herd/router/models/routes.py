"""The table of the calls that manage models."""

from collections.abc import Awaitable, Callable
from typing import NoReturn

from aiohttp import web

from ollama_herd.api.count_tokens import count_tokens
from ollama_herd.api.errors import ApiError
from ollama_herd.router.models.account import Accounts
from ollama_herd.router.models.answers import CallRefused, ModelParts, keep_untyped, refusal
from ollama_herd.router.models.blobs import Blobs
from ollama_herd.router.models.changes import Changes
from ollama_herd.router.models.running import Running
from ollama_herd.router.models.show import Shows
from ollama_herd.router.models.transfer import Transfers
from ollama_herd.router.slow import read_body

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def add_model_routes(app: web.Application, parts: ModelParts) -> None:
    """Adds every route; those that change something only answer when the owner allows it."""
    app.on_response_prepare.append(keep_untyped)
    blobs = Blobs(parts)
    transfers, changes, accounts = Transfers(parts, blobs), Changes(parts), Accounts(parts)

    def add(method: str, path: str, handler: Handler, *, is_change: bool = False) -> None:
        allowed = parts.changes_allowed if is_change else None
        app.router.add_route(method, path, _guarded(handler, allowed))

    add("GET", "/api/ps", Running(parts).ps)
    add("POST", "/api/show", Shows(parts).show)
    add("POST", "/api/pull", transfers.pull, is_change=True)
    add("POST", "/api/push", transfers.push, is_change=True)
    add("POST", "/api/create", transfers.create, is_change=True)
    add("POST", "/api/copy", changes.copy, is_change=True)
    add("DELETE", "/api/delete", changes.delete, is_change=True)
    add("HEAD", "/api/blobs/{digest}", blobs.head, is_change=True)
    add("POST", "/api/blobs/{digest}", blobs.post, is_change=True)
    add("POST", "/api/me", accounts.me)
    add("POST", "/api/signout", accounts.sign_out, is_change=True)
    add("DELETE", "/api/user/keys/{key}", accounts.sign_out, is_change=True)
    add("POST", "/api/experimental/web_search", accounts.web_search)
    add("POST", "/api/experimental/web_fetch", accounts.web_fetch)
    add("POST", "/v1/messages/count_tokens", _token_counter(parts))


def _guarded(handler: Handler, allowed: Callable[[], bool] | None) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            if allowed is not None and not allowed():
                _refuse_change()
            return await handler(request)
        except CallRefused as refused:
            return refusal(refused.error, request.path)

    return handle


def _refuse_change() -> NoReturn:
    message = (
        "the owner of this herd has switched off pull, push, create, copy, delete and uploads "
        "(allow_destructive = false)"
    )
    raise CallRefused(ApiError(403, message, "changes_switched_off"))


def _token_counter(parts: ModelParts) -> Handler:
    """A real Ollama has no such path; clients that ask for it get its own rule of thumb."""

    async def count(request: web.Request) -> web.Response:
        limits = parts.limits
        body = await read_body(request, limits.max_body_bytes, limits.body_timeout_s)
        counted = count_tokens(body, request.headers.get("Content-Encoding", "").strip().lower())
        if isinstance(counted, ApiError):
            raise CallRefused(counted)
        return web.Response(body=counted, headers={"Content-Type": "application/json"})

    return count
