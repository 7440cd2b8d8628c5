"""`/fleet/pins`: which models are to be kept loaded, and where.

Changed by operators only; kept in the router's database. The scheduler carries pins out.
"""

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
import structlog
from aiohttp import web

from ollama_herd.core.fleet import Fleet
from ollama_herd.core.names import canonical_name
from ollama_herd.core.pins import Pin, Pinned
from ollama_herd.router.dispatcher import Dispatcher
from ollama_herd.router.slow import read_body

_log = structlog.get_logger(__name__)

MOST_PINS = 1000
MOST_BYTES = 16 * 1024


class PinRefused(Exception):  # noqa: N818 - an answer to a caller, not a defect
    """`status` and text of the answer."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class PinView(msgspec.Struct, frozen=True):
    """A pin as people see it. `node` is the node it was pinned to, "" for any; `kept_on` where it
    is kept now, "" nowhere; `reason` why it is not loaded.
    """

    model: str
    node: str
    kept_on: str
    is_loaded: bool
    reason: str = ""


class PinList(msgspec.Struct, frozen=True):
    """The answer of `/fleet/pins`."""

    pins: tuple[PinView, ...]


class AskedPin(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a new pin."""

    model: str
    node: str = ""


class PinAnswers:
    """The three handlers. `keep` stores the pins, False when it cannot."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        fleet: Callable[[], Fleet],
        pins: tuple[Pin, ...],
        keep: Callable[[tuple[Pin, ...]], Awaitable[bool]],
    ) -> None:
        self._dispatcher = dispatcher
        self._fleet = fleet
        self._pins = pins
        self._keep = keep
        self._keeping = asyncio.Lock()
        dispatcher.pin(pins)

    def add_routes(self, app: web.Application) -> None:
        add = app.router.add_route
        add("GET", "/fleet/pins", self.show)
        add("POST", "/fleet/pins", self.pin)
        add("DELETE", "/fleet/pins", self.unpin)

    async def show(self, _request: web.Request) -> web.Response:
        """All pins and how they stand."""
        fleet = self._fleet()
        views = PinList(tuple(_view(pinned, fleet) for pinned in self._dispatcher.pinned()))
        return web.Response(body=msgspec.json.encode(views), content_type=_JSON)

    async def pin(self, request: web.Request) -> web.Response:
        """Add one; a model that is pinned already may be pinned to further nodes."""
        try:
            asked = msgspec.json.decode(
                await read_body(request, MOST_BYTES, 10.0, setting=""), type=AskedPin
            )
            pin = self._checked(asked)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            return _refused(400, f'not a pin: {error}; send {{"model": NAME, "node": NODE}}')
        except PinRefused as refused:
            return _refused(refused.status, str(refused))
        if pin not in self._pins:
            await self._change((*self._pins, pin))
            _log.info("model pinned", model=pin.model_key, node_id=pin.node_id or "any")
        return await self.show(request)

    async def unpin(self, request: web.Request) -> web.Response:
        """Remove the pin of `?model=` on `?node=`, or all of that model."""
        name, node = request.query.get("model", "").strip(), request.query.get("node", "").strip()
        if not name:
            return _refused(400, "name the model: DELETE /fleet/pins?model=NAME")
        key = canonical_name(name)
        try:
            node_id = _node_id(node, self._fleet()) if node else ""
        except PinRefused:
            node_id = node  # one that is not there any more, by its id
        left = tuple(
            pin for pin in self._pins if pin.model_key != key or (node and pin.node_id != node_id)
        )
        if left == self._pins:
            where = f" to '{node}'" if node else ""
            return _refused(404, f"'{name}' is not pinned{where}; GET /fleet/pins shows what is")
        await self._change(left)
        _log.info("model unpinned", model=key, node_id=node_id or "any")
        return await self.show(request)

    def _checked(self, asked: AskedPin) -> Pin:
        fleet = self._fleet()
        name = asked.model.strip()
        key = canonical_name(name)
        if not name:
            raise PinRefused(400, "name the model that is to be kept loaded")
        there = (*fleet.replicas.get(key, ()), *fleet.unusable.get(key, ()))
        if not there:
            raise PinRefused(404, f"no node of the fleet has '{name}'; pull it first")
        if len(self._pins) >= MOST_PINS:
            raise PinRefused(400, f"at most {MOST_PINS} models can be pinned; unpin some")
        node_id = _node_id(asked.node.strip(), fleet) if asked.node.strip() else ""
        if node_id and all(replica.node_id != node_id for replica in there):
            raise PinRefused(404, f"'{asked.node}' does not have '{name}'; pull it there first")
        return Pin(key, node_id)

    async def _change(self, pins: tuple[Pin, ...]) -> None:
        self._pins = pins
        self._dispatcher.pin(pins)
        async with self._keeping:  # what is kept last must be what holds
            is_kept = await self._keep(self._pins)
        if not is_kept:
            _log.warning("pins could not be stored; they hold until the router is restarted")


_JSON = "application/json"


def _node_id(name: str, fleet: Fleet) -> str:
    if name in fleet.nodes:
        return name
    found = [node.node_id for node in fleet.nodes.values() if node.name == name]
    if not found:
        raise PinRefused(404, f"no node is called '{name}'; /fleet/status lists them")
    if len(found) > 1:
        raise PinRefused(400, f"{len(found)} nodes are called '{name}': give the id of one")
    return found[0]


def _view(pinned: Pinned, fleet: Fleet) -> PinView:
    def name(node_id: str) -> str:
        node = fleet.nodes.get(node_id)
        return node.name if node is not None else node_id

    pin = pinned.pin
    return PinView(
        model=pin.model_key,
        node=name(pin.node_id),
        kept_on=name(pinned.node_id),
        is_loaded=pinned.is_loaded,
        reason=pinned.reason,
    )


def _refused(status: int, reason: str) -> web.Response:
    return web.json_response({"error": reason}, status=status)
