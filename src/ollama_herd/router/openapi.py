"""The herd's own API as OpenAPI 3.1: `GET /fleet/openapi.json`.

Made from the routes that are really there and from the types that their handlers encode, so it
cannot tell of a path that does not exist. A route is one row of `operations.OPERATIONS`; one
without a row is listed with the first line of its handler's docstring. Ollama's, OpenAI's and
Anthropic's paths are described by those who made them, and are left out.
"""

import inspect
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec
from aiohttp import web

from ollama_herd import __version__
from ollama_herd.router.operations import JSON, OPERATIONS, Operation, Problem, Schema, text

PATH: Final = "/fleet/openapi.json"

OWN: Final = ("/fleet/", "/dashboard/api/", "/dashboard/events", "/metrics")
"""What the herd has beside the APIs that it speaks for engines."""

NO_CONTENT: Final = 204

_ABOUT: Final = (
    "What a herd has beside the APIs that it speaks for its engines. Where the owner has made API "
    "keys, a request without one is answered 401, one whose key is not for it 403."
)


def add_openapi(app: web.Application) -> None:
    """Serve the document of this application's routes."""
    kept: list[bytes] = []

    async def answer(_request: web.Request) -> web.Response:
        """What is written here, as OpenAPI 3.1."""
        if not kept:
            kept.append(msgspec.json.encode(document(app)))
        return web.Response(body=kept[0], headers={"Content-Type": JSON})

    app.router.add_route("GET", PATH, answer)


def document(app: web.Application) -> dict[str, Any]:
    """The OpenAPI document of `app`."""
    paths: dict[str, dict[str, Any]] = {}
    found = dict(_own_routes(app))
    described = [OPERATIONS.get(key, Operation()) for key in found]
    types = [one for op in described for one in (op.answer, op.body) if one is not None]
    shown, schemas = msgspec.json.schema_components(
        [Problem, *types], ref_template="#/components/schemas/{name}"
    )
    of_type = dict(zip([Problem, *types], shown, strict=True))
    for (method, path), summary in found.items():
        operation = OPERATIONS.get((method, path), Operation())
        paths.setdefault(path, {})[method.lower()] = _described(path, summary, operation, of_type)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Ollama Herd", "version": __version__, "description": _ABOUT},
        "paths": paths,
        "components": {
            "schemas": _portable(schemas),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _own_routes(app: web.Application) -> Iterator[tuple[tuple[str, str], str]]:
    """Method and path of each, with a line about it."""
    for route in app.router.routes():
        path = "" if route.resource is None else route.resource.canonical
        if path.startswith(OWN) and route.method != "HEAD":
            told = inspect.getdoc(route.handler) or ""
            yield (route.method, path), told.partition("\n")[0]


def _described(
    path: str, summary: str, operation: Operation, of_type: Mapping[type, Schema]
) -> dict[str, Any]:
    problem = {"schema": of_type[Problem]}
    names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
    parameters = [_parameter(name, "path", text()) for name in names]
    parameters += [_parameter(name, "query", schema) for name, schema in operation.query.items()]
    content: Schema = {} if operation.answer is None else {"schema": of_type[operation.answer]}
    done: dict[str, Any] = {"description": "done"}
    if operation.status != NO_CONTENT:
        done["content"] = dict.fromkeys(operation.media, content)
    responses = {str(operation.status): done}
    for status in operation.refusals:
        told = {JSON: problem}
        if status == 404:  # a path without its last part is none
            told["text/plain"] = {"schema": {"type": "string"}}
        responses[str(status)] = {"description": "refused", "content": told}
    described: dict[str, Any] = {"summary": summary, "responses": responses}
    if parameters:
        described["parameters"] = parameters
    if operation.body is not None:
        media = {JSON: {"schema": of_type[operation.body]}}
        described["requestBody"] = {"required": True, "content": media}
    if operation.needs_key:
        described["security"] = [{"key": []}]
    return described


def _parameter(name: str, place: str, schema: Schema) -> dict[str, Any]:
    is_needed = place == "path" or name.endswith("*")
    return {"name": name.rstrip("*"), "in": place, "required": is_needed, "schema": schema}


def _portable(value: Any) -> Any:
    """Python's anchors of a pattern in those of ECMA 262, which JSON Schema asks for."""
    if isinstance(value, dict):
        return {
            key: item.replace(r"\A", "^").replace(r"\Z", "$")
            if key == "pattern" and isinstance(item, str)
            else _portable(item)
            for key, item in value.items()
        }
    return [_portable(item) for item in value] if isinstance(value, list) else value
