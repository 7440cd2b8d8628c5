"""Who waits to join, who was refused, and what the owner decides: approve, ban, rename."""

from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import web

from ollama_herd.api.joining import Joining, Waiting
from ollama_herd.core.access import NodeRule
from ollama_herd.router.admission import Pending
from ollama_herd.router.nodes import JSON, named, refused
from ollama_herd.router.registry import Registry
from ollama_herd.router.slow import read_body
from ollama_herd.store.errors import StoreError

MAX_NAME = 100
MAX_BYTES = 4096
BODY_S = 10.0

KeepRule = Callable[[NodeRule], Awaitable[None]]


class Renaming(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a rename."""

    name: str


_renaming = msgspec.json.Decoder(Renaming)


def add_joining_routes(app: web.Application, registry: Registry, keep: KeepRule) -> None:
    """`keep(rule)` stores a decision, and lets the admission know; it may raise StoreError."""
    joining = _Joining(registry, keep)
    add = app.router.add_route
    add("GET", "/fleet/joining", joining.waiting)
    add("POST", "/fleet/nodes/{node}/approve", joining.approve)
    add("POST", "/fleet/nodes/{node}/ban", joining.ban)
    add("POST", "/fleet/nodes/{node}/unban", joining.unban)
    add("POST", "/fleet/nodes/{node}/rename", joining.rename)


class _Joining:
    def __init__(self, registry: Registry, keep: KeepRule) -> None:
        self._registry = registry
        self._admission = registry.admission
        self._keep = keep

    async def waiting(self, _request: web.Request) -> web.Response:
        """Who waits for approval, and whose reports were refused."""
        admission = self._admission
        shown = Joining(
            mode=admission.mode,
            waiting=tuple(map(_waiting, admission.pending())),
            refused=dict(admission.refused),
            refused_lately=admission.turned(),
        )
        return _json(shown)

    async def approve(self, request: web.Request) -> web.Response:
        """A waiting machine becomes a node with its next report."""
        asked = request.match_info["node"]
        approved = self._admission.approve(asked)
        if approved is None:
            names = ", ".join(one.claim.name for one in self._admission.pending()) or "none"
            reason = f"no node called {asked[:100]!r} waits, or several do; there are {names}"
            return refused(404, "not_waiting", reason)
        return _json(_waiting(approved))

    async def ban(self, request: web.Request) -> web.Response:
        """A node leaves the fleet, and its reports are refused from now on."""
        node_id = self._id_of(request)
        if isinstance(node_id, web.Response):
            return node_id
        answer = await self._decide(node_id, is_banned=True)
        if answer.status == 200:
            self._registry.forget(node_id)
        return answer

    async def unban(self, request: web.Request) -> web.Response:
        """A banned node, named by its id, may report again."""
        node_id = request.match_info["node"]
        if not self._admission.rule(node_id).is_banned:
            return refused(404, "not_banned", f"no node with the id {node_id[:100]!r} is banned")
        return await self._decide(node_id, is_banned=False)

    async def rename(self, request: web.Request) -> web.Response:
        """Another name for a node; "" gives it back its own, with its next report."""
        node = named(self._registry.fleet, request)
        if isinstance(node, web.Response):
            return node
        try:
            name = _renaming.decode(
                await read_body(request, MAX_BYTES, BODY_S, setting="")
            ).name.strip()
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return refused(400, "bad_name", 'a new name is needed, as {"name": "studio"}')
        if len(name) > MAX_NAME or not name.isprintable():
            reason = f"a name has up to {MAX_NAME} printable characters"
            return refused(400, "bad_name", reason)
        others = (n for n in self._registry.fleet.nodes.values() if n.node_id != node.node_id)
        if any(name == other.name for other in others):
            return refused(409, "name_taken", f"another node is called {name!r}; take another name")
        answer = await self._decide(node.node_id, name=name)
        if answer.status == 200:
            self._registry.rename(node.node_id, name)
        return answer

    def _id_of(self, request: web.Request) -> str | web.Response:
        """Of a node of the fleet, or of a machine that waits."""
        asked = request.match_info["node"]
        for one in self._admission.pending():
            if asked in (one.claim.node_id, one.claim.name):
                return one.claim.node_id
        node = named(self._registry.fleet, request)
        return node if isinstance(node, web.Response) else node.node_id

    async def _decide(self, node_id: str, **changes: object) -> web.Response:
        rule = msgspec.structs.replace(self._admission.rule(node_id), **changes)
        try:
            await self._keep(rule)
        except StoreError as error:
            return refused(503, "database", f"this cannot be kept now: {error}")
        return _json(rule)


def _waiting(one: Pending) -> Waiting:
    claim = one.claim
    return Waiting(claim.node_id, claim.name, claim.address, one.first_s, one.last_s)


def _json(value: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), headers={"Content-Type": JSON})
