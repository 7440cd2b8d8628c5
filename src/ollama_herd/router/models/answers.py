"""What all calls that manage models share: their parts, refusals, reading and answering."""

from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web
from multidict import CIMultiDict

from ollama_herd.api.dialects import dialect_of
from ollama_herd.api.errors import ApiError, render
from ollama_herd.api.model_bodies import ModelBody, read_model_body
from ollama_herd.router.asking import EngineAnswer, node_header
from ollama_herd.router.registry import Registry
from ollama_herd.router.slow import read_body
from ollama_herd.router.upstream import Upstream
from ollama_herd.router.wire import Limits


@dataclass(frozen=True, slots=True)
class ModelParts:
    """What these calls work with; built once. `changes_allowed()` is the owner's setting now."""

    upstream: Upstream
    registry: Registry
    limits: Limits
    changes_allowed: Callable[[], bool]


class CallRefused(Exception):  # noqa: N818 - an answer to a client, not a defect
    """The call is not carried out; `error` says why."""

    def __init__(self, error: ApiError) -> None:
        super().__init__(error.message)
        self.error = error


async def read_call(parts: ModelParts, request: web.Request) -> ModelBody:
    """The body of a call. Raises CallRefused and BodyRefused."""
    limits = parts.limits
    body = await read_body(request, limits.max_body_bytes, limits.body_timeout_s)
    parsed = read_model_body(request.path, body)
    if isinstance(parsed, ApiError):
        raise CallRefused(parsed)
    return parsed


def wanted_node(request: web.Request, parsed: ModelBody | None = None) -> str:
    """The node the caller names, "" when the herd is to choose."""
    if parsed is not None and parsed.node:
        return parsed.node
    return request.headers.get("X-Herd-Node", "").strip()


def refusal(error: ApiError, path: str) -> web.Response:
    """An error of our own in the caller's dialect."""
    status, content_type, body = render(error, dialect_of(path), path)
    headers = {"Content-Type": content_type.decode()}
    if error.retry_after_s:
        headers["Retry-After"] = str(error.retry_after_s)
    return web.Response(status=status, body=body, headers=headers)


def passed_on(answer: EngineAnswer, nodes: list[str]) -> web.Response:
    """An engine's answer as it is, with the names of the nodes that gave it."""
    headers: CIMultiDict[str] = CIMultiDict(
        (name.decode("latin-1"), value.decode("latin-1"))
        for name, value in (*answer.headers, node_header(nodes))
    )
    make = web.Response if "Content-Type" in headers else _Untyped
    return make(status=answer.status, body=answer.body, headers=headers)


class _Untyped(web.Response):
    """An answer without a content type."""


async def keep_untyped(_request: web.Request, response: web.StreamResponse) -> None:
    """Where an engine named no content type there is none; aiohttp would make one up."""
    if isinstance(response, _Untyped):
        response.headers.popall("Content-Type", None)


def empty_ok(nodes: list[str]) -> web.Response:
    """200 without a body and without a type, as Ollama ends a copy and a delete."""
    return passed_on(EngineAnswer(200, (), b""), nodes)
