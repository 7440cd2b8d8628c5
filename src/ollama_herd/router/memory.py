"""What the router remembers across restarts: fleet, node keys, what it learned, traces.

All disk work runs in threads; the loop only hands values over. A database that cannot be used
costs memory, never a request.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

import msgspec
import structlog

from ollama_herd.config import RouterSettings
from ollama_herd.core.access import Access, NodeRule
from ollama_herd.core.fleet import Fleet
from ollama_herd.core.learned import PredictorState
from ollama_herd.core.node import Node
from ollama_herd.core.pins import Pin
from ollama_herd.core.predict import Predictor
from ollama_herd.core.trace import Trace
from ollama_herd.store.access import AccessStore
from ollama_herd.store.database import Database
from ollama_herd.store.errors import StoreError
from ollama_herd.store.expiry import Retention
from ollama_herd.store.fleet import FleetStore
from ollama_herd.store.health import HealthStore
from ollama_herd.store.settings import SettingStore
from ollama_herd.store.traces import TraceStore, open_traces
from ollama_herd.tasks import cancel_and_wait, spawn

_log = structlog.get_logger(__name__)

SAVE_S = 2.0
"""The last known fleet is written at most this often; the newest state wins."""

LEARNED_SAVES = 30
"""What was learned is written every so many saves: a minute of it is quickly learned again."""

CLOSE_S = 2.0
"""Time for the last traces to reach the disk at the end."""

_PREDICTOR = "predictor"
_PINS = "pins"

_T = TypeVar("_T")


class Memory:
    """Loaded before the router listens; written behind its back."""

    def __init__(self, settings: RouterSettings) -> None:
        settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._database = Database(settings.database_url or settings.home)
        self._fleet_store = FleetStore(self._database)
        self.health_changes = HealthStore(self._database)
        self.setting_store = SettingStore(self._database)
        self.changed_settings: Mapping[str, str] = {}
        self._access_store = AccessStore(self._database, settings.home)
        self._access: Access | None = Access()
        self._take_access: Callable[[Access | None], None] | None = None
        self._are_rules_unreadable = False
        self._traces: TraceStore | None = None
        self._settings = settings
        self._unsaved: Fleet | None = None
        self._writing = asyncio.Lock()
        self._predictor: Predictor | None = None
        self._failing = ""
        self.nodes: Sequence[Node] = ()
        self.learned = PredictorState()
        self.pins: tuple[Pin, ...] = ()

    def load(self) -> None:
        """Read everything. Blocks: call it in a worker thread."""
        try:
            self.nodes = self._fleet_store.load()
            self.changed_settings = self.setting_store.load()
            self.learned = self._kept(_PREDICTOR, PredictorState, self.learned)
            self.pins = self._kept(_PINS, tuple[Pin, ...], self.pins)
        except StoreError as error:
            self._tell(str(error))
        try:
            self._access = self._access_store.load()
        except StoreError:
            self._access = None if self._access_store.were_keys_needed else Access()
        if self._settings.traces:
            self._traces = open_traces(self._database, self._retention())

    def retain(self, settings: RouterSettings) -> None:
        """Keep traces as these settings say from now on."""
        self._settings = settings
        if self._traces is not None:
            self._traces.retain(self._retention())

    def bind(self, node_id: str, key_hash: str) -> bool:
        """Whether the key speaks for the node; the first key it shows becomes its own."""
        return self._fleet_store.bind(node_id, key_hash)

    async def rebind(self, node_id: str, old_hash: str, new_hash: str) -> bool:
        """Give a node another key; False when it keeps its own, as the database cannot be used."""
        try:
            return await asyncio.to_thread(self._fleet_store.rebind, node_id, old_hash, new_hash)
        except StoreError as error:
            self._tell(str(error))
            return False

    def is_bound(self, node_id: str) -> bool:
        """Whether the node is known: some key speaks for it."""
        return self._fleet_store.is_bound(node_id)

    async def keep_rule(self, rule: NodeRule) -> None:
        """Keep what the owner decided about a node; it holds at once. Raises StoreError."""
        await asyncio.to_thread(self._access_store.put, rule.node_id, rule)
        await self.read_access()

    async def forget(self, node_id: str) -> None:
        """Delete what is kept of a node that has left the fleet. Raises StoreError."""
        async with self._writing:  # a save under way may have the node in hand
            await asyncio.to_thread(self._fleet_store.forget, node_id)

    def put_trace(self, trace: Trace) -> None:
        if self._traces is not None:
            self._traces.put(trace)

    @property
    def traces(self) -> TraceStore | None:
        """Where traces go, None when none are kept."""
        return self._traces

    def teach(self, predictor: Predictor) -> None:
        """Give the predictor what an earlier run learned, and keep what it learns from now on."""
        predictor.restore(self.learned)
        self._predictor = predictor

    def on_access(self, take: Callable[[Access | None], None]) -> None:
        """Give `take` what was decided about who may do what, now and when it changes; None while
        it cannot be read though there is something.
        """
        self._take_access = take
        take(self._access)

    async def read_access(self) -> None:
        """Read it again: the command line may have changed it. What was read last holds when that
        fails.
        """
        try:
            access = await asyncio.to_thread(self._access_store.load)
        except StoreError as error:
            if not self._are_rules_unreadable:
                _log.warning("who may come in cannot be read; what was last holds", why=str(error))
            self._are_rules_unreadable = True
            return
        self._are_rules_unreadable = False
        if access != self._access and self._take_access is not None:
            self._access = access
            self._take_access(access)

    async def keep_pins(self, pins: tuple[Pin, ...]) -> bool:
        """Remember these pins; False when the database cannot, and they hold until a restart."""
        self.pins = pins
        body = msgspec.json.encode(pins)
        return await self._written(lambda: self._fleet_store.save_learned(_PINS, body))

    def keep_fleet(self, fleet: Fleet) -> None:
        """Remember this fleet; written with the next save."""
        self._unsaved = fleet

    async def keep_saving(self) -> None:
        """Save for ever."""
        round_number = 0
        while True:
            await asyncio.sleep(SAVE_S)
            round_number += 1
            await self.read_access()
            await self.save(learned=round_number % LEARNED_SAVES == 0)

    async def save(self, *, learned: bool) -> None:
        """Write what is not written yet."""
        async with self._writing:
            fleet, self._unsaved = self._unsaved, None
            if fleet is not None:
                nodes = list(fleet.nodes.values())
                if not await self._written(lambda: self._fleet_store.save(nodes)):
                    self._unsaved = self._unsaved or fleet
        if learned and self._predictor is not None:
            body = msgspec.json.encode(self._predictor.state())
            await self._written(lambda: self._fleet_store.save_learned(_PREDICTOR, body))

    async def close(self) -> None:
        """The last save, bounded."""
        try:
            async with asyncio.timeout(CLOSE_S):
                await self.save(learned=True)
        except TimeoutError:
            _log.warning("the last state of the fleet was not saved in time")
        if self._traces is not None:
            await asyncio.to_thread(self._traces.close, CLOSE_S)
        self._database.close()

    def _kept(self, name: str, kind: type[_T], default: _T) -> _T:
        """What an earlier run kept under this name; `default` where that cannot be read."""
        body = self._fleet_store.load_learned(name)
        if body is None:
            return default
        try:
            return msgspec.json.decode(body, type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            _log.warning("what was kept cannot be read", what=name, reason=str(error))
            return default

    async def _written(self, write: Callable[[], None]) -> bool:
        try:
            await asyncio.to_thread(write)
        except StoreError as error:
            self._tell(str(error))
            return False
        if self._failing:
            _log.info("the database works again")
            self._failing = ""
        return True

    def _tell(self, reason: str) -> None:
        """Once for each new reason."""
        if reason != self._failing:
            _log.warning("the database cannot be used; the herd goes on without", reason=reason)
            self._failing = reason

    def _retention(self) -> Retention:
        return Retention(
            days=self._settings.trace_retention_days,
            max_rows=self._settings.trace_max_rows,
            max_bytes=self._settings.trace_max_bytes,
        )


@asynccontextmanager
async def remembering(settings: RouterSettings) -> AsyncIterator[Memory]:
    """A loaded memory that saves itself until the end."""
    memory = Memory(settings)
    await asyncio.to_thread(memory.load)
    saving = spawn(memory.keep_saving(), name="save")
    try:
        yield memory
    finally:
        await cancel_and_wait(saving)
        await memory.close()
