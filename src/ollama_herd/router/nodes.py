"""Lists of nodes and models, and what an operator does with a node: drain it, or forget it."""

from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import web

from ollama_herd import __version__
from ollama_herd.api.fleet_lists import model_list, node_entry, node_list
from ollama_herd.clock import monotonic_s, now_s
from ollama_herd.core.fleet import Fleet
from ollama_herd.core.node import Node, NodeStatus
from ollama_herd.router.registry import Registry
from ollama_herd.store.errors import StoreError

JSON = "application/json; charset=utf-8"


def add_node_routes(
    app: web.Application, registry: Registry, forget: Callable[[str], Awaitable[None]]
) -> None:
    """`forget(node_id)` deletes what is kept of a node that left, and may raise StoreError."""
    nodes = _Nodes(registry, forget)
    add = app.router.add_route
    add("GET", "/fleet/models", nodes.models)
    add("GET", "/fleet/nodes", nodes.nodes)
    add("GET", "/fleet/nodes/{node}", nodes.node)
    add("DELETE", "/fleet/nodes/{node}", nodes.forget)
    add("POST", "/fleet/nodes/{node}/drain", nodes.drain)
    add("POST", "/fleet/nodes/{node}/undrain", nodes.undrain)


class _Nodes:
    """A node is named by its id, or by its name where only one has it."""

    def __init__(self, registry: Registry, forget: Callable[[str], Awaitable[None]]) -> None:
        self._registry = registry
        self._forget = forget

    async def nodes(self, _request: web.Request) -> web.Response:
        """All nodes with engines and models."""
        return _json(node_list(self._registry.fleet, monotonic_s(), now_s(), __version__))

    async def models(self, _request: web.Request) -> web.Response:
        """All models with the places that have them."""
        return _json(model_list(self._registry.fleet))

    async def node(self, request: web.Request) -> web.Response:
        """One node with engines and models."""
        node = named(self._registry.fleet, request)
        return node if isinstance(node, web.Response) else self._entry(node.node_id)

    async def drain(self, request: web.Request) -> web.Response:
        """No new requests to a node; those that run there end as they would."""
        return self._set_draining(request, draining=True)

    async def undrain(self, request: web.Request) -> web.Response:
        """A drained node takes requests again."""
        return self._set_draining(request, draining=False)

    async def forget(self, request: web.Request) -> web.Response:
        """A node that is gone leaves the fleet, and its name is free for another machine."""
        node = named(self._registry.fleet, request)
        if isinstance(node, web.Response):
            return node
        if node.status is not NodeStatus.OFFLINE:
            return refused(
                409,
                "node_reports",
                f"node {node.name!r} still reports and would be back with its next report: "
                "stop herd-node there first, or drain it",
            )
        self._registry.forget(node.node_id)
        try:
            await self._forget(node.node_id)
        except StoreError as error:
            reason = f"node {node.name!r} has left, but is back after a restart: {error}"
            return refused(503, "database", reason)
        return web.Response(status=204)

    def _set_draining(self, request: web.Request, *, draining: bool) -> web.Response:
        node = named(self._registry.fleet, request)
        if isinstance(node, web.Response):
            return node
        self._registry.drain(node.node_id, draining=draining)
        return self._entry(node.node_id)

    def _entry(self, node_id: str) -> web.Response:
        return _json(node_entry(self._registry.fleet.nodes[node_id], monotonic_s()))


def named(fleet: Fleet, request: web.Request) -> Node | web.Response:
    """The node that the path of a request names, else the answer that says why there is none."""
    return named_node(fleet, request.match_info["node"])


def named_node(fleet: Fleet, asked: str) -> Node | web.Response:
    """The node of that id, or the only one of that name; else the answer that says so."""
    known = fleet.nodes.get(asked)
    if known is not None:
        return known
    found = [node for node in fleet.nodes.values() if node.name == asked]
    if len(found) == 1:
        return found[0]
    if found:
        ids = ", ".join(sorted(node.node_id for node in found))
        return refused(409, "ambiguous_node", f"{len(found)} nodes are called {asked!r}: {ids}")
    names = ", ".join(sorted(node.name for node in fleet.nodes.values())) or "none"
    return refused(404, "unknown_node", f"no node is called {asked[:100]!r}; there are {names}")


def _json(value: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), headers={"Content-Type": JSON})


def refused(status: int, code: str, reason: str) -> web.Response:
    """An error of the fleet's own routes: a stable code, and the reason in words."""
    return web.json_response({"error": reason, "code": code}, status=status)
