"""The composition root of `herd`: builds every object once, runs them, and ends them in order."""

import asyncio
import gc
import logging
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from types import MappingProxyType

import structlog
from aiohttp import web

from ollama_herd import __version__
from ollama_herd.api.errors import ApiError
from ollama_herd.api.joining import JoinMode
from ollama_herd.clock import monotonic_s
from ollama_herd.config import Loaded, Origin, RouterSettings
from ollama_herd.core.access import Access
from ollama_herd.core.at_once import Policy, scheduler
from ollama_herd.core.canary import CanarySettings
from ollama_herd.core.health.values import RouterFacts, Stuck
from ollama_herd.core.names import canonical_name
from ollama_herd.core.node import NoticedBy
from ollama_herd.core.predict import Predictor
from ollama_herd.core.queue import QueueSettings
from ollama_herd.core.silence import SilenceLimits
from ollama_herd.core.trace import Trace
from ollama_herd.dashboard.settings import add_setting_routes
from ollama_herd.router.admission import Admission
from ollama_herd.router.canaries import CanarySender
from ollama_herd.router.control import control_app
from ollama_herd.router.crowd import Rates
from ollama_herd.router.dispatcher import Dispatcher
from ollama_herd.router.gate import Gate, own_host_names
from ollama_herd.router.handed import Options, handed_over
from ollama_herd.router.joining import add_joining_routes
from ollama_herd.router.keeping import Keeping
from ollama_herd.router.keys import KeyRing
from ollama_herd.router.listening import Listening, listen
from ollama_herd.router.live import LiveSettings
from ollama_herd.router.measure import Measuring
from ollama_herd.router.media import MediaRoutes
from ollama_herd.router.memory import Memory, remembering
from ollama_herd.router.nodes import add_node_routes
from ollama_herd.router.pins import PinAnswers
from ollama_herd.router.preload import Preloads
from ollama_herd.router.registry import Registry
from ollama_herd.router.reply import Headers
from ollama_herd.router.serve import Parts, serve
from ollama_herd.router.setting_answers import SettingAnswers
from ollama_herd.router.static_nodes import StaticNodes
from ollama_herd.router.telemetry import Telemetry
from ollama_herd.router.tls import Certificate
from ollama_herd.router.upstream import Upstream
from ollama_herd.router.watch import Watch
from ollama_herd.router.wire import Door
from ollama_herd.tasks import cancel_and_wait, spawn

_log = structlog.get_logger(__name__)

_SILENT = logging.getLogger("ollama_herd.aiohttp")
_SILENT.disabled = True
"""aiohttp would log pieces of what it could not parse, and these may be a prompt; what fails in a
handler is logged by the control plane itself."""

TICK_S = 1.0
"""How often time passes for statuses, deadlines and idle connections."""

SILENCE_STEPS = 5
"""How many looks the shortest silence that counts is made of, but at least one a tick."""

LINGER_S = 1.0
"""How long a refused body is still read, so that the client sees the answer before a reset."""

GC_THRESHOLDS = (50_000, 50, 100)
"""Hardly anything here forms cycles; by Python's defaults the collector looks for them all the time
(4 to 5 % of a small request, measured)."""

POLL_S = 0.02
"""How often a draining router looks whether the last request has ended."""


class Herd:
    """A running router. `port` is the one it listens on (settings may ask for any free one)."""

    def __init__(self, live: LiveSettings, memory: Memory) -> None:
        self.live = live
        settings = live.current
        self.registry = _registry(settings, memory)
        self._predictor = Predictor()
        memory.teach(self._predictor)
        self.dispatcher = _dispatcher(settings, self._predictor)
        self.upstream = Upstream(settings.connect_timeout_s, Keeping(settings.kept_bytes))
        self.dispatcher.load_with(Preloads(self.upstream, self.dispatcher).start)
        self.dispatcher.ask_idle_with(CanarySender(self.upstream, self.dispatcher).start)
        self.dispatcher.tell_stuck(self.registry.runners_stuck)
        self.registry.on_change(self.dispatcher.fleet_changed)
        self.registry.on_change(memory.keep_fleet)
        self._gate = gate = _gate(settings)
        self.telemetry = _telemetry(settings, self._node_name)
        self.watch = Watch(
            fleet=lambda: self.registry.fleet,
            queue=self.dispatcher.queue,
            facts=self._facts,
            store=lambda: None if memory.traces is None else memory.traces.health(),
            history=memory.health_changes,
            stuck=self._stuck,
            export=self.telemetry.export if self.telemetry is not None else None,
        )
        self.keys = KeyRing(gate.is_own_page)
        memory.on_access(self._take_access)
        parts = self._parts = self._parts_of(settings, memory)
        app = control_app(
            parts=parts,
            registry=self.registry,
            dispatcher=self.dispatcher,
            gate=gate,
            limits=settings,
            traces=lambda: memory.traces,
            watch=self.watch,
            changes_allowed=lambda: self._settings.allow_destructive,
            rebind=memory.rebind,
        )
        MediaRoutes(parts, settings).add_to(app)
        self._add_own_routes(app, memory)
        self._http = _http(settings)
        self._runner = web.AppRunner(
            app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1, **self._http
        )
        self._memory = memory
        live.on_change(self._apply)
        self._apply(settings)
        self._door: Door | None = None
        self.port, self.certificate = 0, _certificate(settings)

    def _parts_of(self, settings: RouterSettings, memory: Memory) -> Parts:
        return Parts(
            dispatcher=self.dispatcher,
            upstream=self.upstream,
            put_trace=partial(_ended, self.watch.put, memory.put_trace),
            node_name=self._node_name,
            fleet=lambda: self.registry.fleet,
            gate=self._gate,
            keys=self.keys,
            rates=_rates(settings),
            max_attempts=settings.max_attempts,
        )

    def _add_own_routes(self, app: web.Application, memory: Memory) -> None:
        """What changes the fleet and the settings."""
        add_setting_routes(app, SettingAnswers(self.live, self.keys))
        add_node_routes(app, self.registry, memory.forget)
        Measuring(self.registry, self.dispatcher, self.upstream).add_to(app)
        fleet = lambda: self.registry.fleet  # noqa: E731 - of the moment in which it is asked
        PinAnswers(self.dispatcher, fleet, memory.pins, memory.keep_pins).add_routes(app)
        add_joining_routes(app, self.registry, memory.keep_rule)

    async def listen(self) -> Listening:
        """Open the one listening socket. Raises OSError when the port is taken."""
        await self._runner.setup()
        server = self._runner.server
        if server is None:
            raise AssertionError("setup() makes the server")
        door = Door(
            serve=partial(serve, self._parts),
            hand_over=partial(handed_over, server, self._http),
            gate=self._may_enter,
            limits=self._settings,
            paths=None if self._settings.data_plane == "raw" else {},
        )
        listening = await listen(
            door,
            self._settings.host,
            self._settings.port,
            None if self.certificate is None else self.certificate.context,
        )
        self._door = door
        self.port = listening.port
        return listening

    async def pass_time(self) -> None:
        """Tick for ever."""
        due = monotonic_s() + TICK_S
        while True:
            await asyncio.sleep(due - monotonic_s())
            now = monotonic_s()
            self.registry.tick(late_s=now - due)
            due = now + TICK_S
            self.dispatcher.tick()
            self.upstream.expire(now)
            if self._door is not None:
                self._door.sweep(now)

    async def listen_to_silence(self) -> None:
        """Let silent engines be noticed, for ever."""
        silence = self._parts.silence
        floor_s = min(silence.hedge_floor_s, silence.stall_floor_s)
        pause_s = min(TICK_S, floor_s / SILENCE_STEPS)
        while True:
            await asyncio.sleep(pause_s)
            self.upstream.pass_time(pause_s)

    async def drain(self) -> None:
        """Let running answers end for as long as the settings allow, then cut the rest."""
        door = self._door
        if door is not None:
            door.drain()
            try:
                async with asyncio.timeout(self._settings.drain_s):
                    while door.busy:  # noqa: ASYNC110 - the data plane knows no shutdown
                        await asyncio.sleep(POLL_S)
            except TimeoutError:
                self.dispatcher.drain()
                await asyncio.sleep(POLL_S)  # for the refusals to be written
                if door.busy:
                    _log.warning("answers cut by the shutdown", in_flight=door.busy)
            door.abort()
        self.dispatcher.drain()
        await self._runner.cleanup()
        self.upstream.close()

    def _apply(self, settings: RouterSettings) -> None:
        """Put into effect what may change while the router runs (`config/live.py`)."""
        self._settings = settings
        parts = self._parts
        parts.max_attempts = settings.max_attempts
        parts.silence = _silence(settings)
        parts.continue_streams = settings.continue_streams
        parts.sse_keepalive_s = settings.sse_keepalive_s
        parts.fallbacks = settings.fallbacks
        parts.priorities = settings.priorities
        self.dispatcher.queue_by(_queue(settings))
        canaries = CanarySettings(every_s=settings.canary_s, silence=_silence(settings))
        self.dispatcher.ask_idle_by(canaries)
        self.upstream.keeping.limit_bytes = settings.kept_bytes
        self._memory.retain(settings)

    def _facts(self) -> RouterFacts:
        return RouterFacts(
            version=__version__,
            host=self._settings.host,
            port=self.port,
            asks_for_keys=self.keys.are_needed,
            queue_limit=self._settings.queue_limit,
        )

    def _stuck(self) -> tuple[Stuck, ...]:
        """For the health check, which sees for itself what requests meet."""
        return tuple(
            Stuck(one.node_id, one.engine_id, canonical_name(one.model))
            for one in self.registry.fleet.stuck
            if one.noticed_by is NoticedBy.CANARY
        )

    def _take_access(self, access: Access | None) -> None:
        if access is None:
            self.keys.close()
        else:
            self.keys.replace(access.api_keys)
            self.registry.admission.take(access.join_keys, access.nodes)

    def _may_enter(self, headers: Headers, client: str) -> Headers | ApiError:
        """What the request path will ask, before a long body is read."""
        allowed = self._gate(headers, client)
        if not self.keys.are_needed or isinstance(allowed, ApiError):
            return allowed
        caller = self.keys.caller(headers)
        return caller if isinstance(caller, ApiError) else allowed

    def _node_name(self, node_id: str) -> str:
        node = self.registry.fleet.nodes.get(node_id)
        return node.name if node is not None else node_id


def _gate(settings: RouterSettings) -> Gate:
    return Gate(
        clients=settings.allowed_clients,
        hosts=own_host_names() | {settings.host, *settings.allowed_hosts},
        origins=settings.allowed_origins,
    )


def _telemetry(settings: RouterSettings, node_name: Callable[[str], str]) -> Telemetry | None:
    """Raises TelemetryUnavailable."""
    if not settings.otel_endpoint:
        return None
    return Telemetry(settings.otel_endpoint, __version__, node_name)


def _certificate(settings: RouterSettings) -> Certificate | None:
    """Raises CertificateUnusable."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    return Certificate(settings.tls_cert, settings.tls_key)


def _rates(settings: RouterSettings) -> Rates | None:
    per_minute = settings.requests_per_minute_per_client
    return Rates(per_minute) if per_minute else None


def _queue(settings: RouterSettings) -> QueueSettings:
    return QueueSettings(
        limit=settings.queue_limit,
        timeout_s=settings.queue_timeout_s,
        probe_slots=True,
        placement=settings.placement,
    )


def _dispatcher(settings: RouterSettings, predictor: Predictor) -> Dispatcher:
    return Dispatcher(scheduler(_queue(settings), predictor, Policy(settings.policy)))


def _registry(settings: RouterSettings, memory: Memory) -> Registry:
    admission = Admission(
        JoinMode(settings.join),
        is_bound=memory.is_bound,
        bind=memory.bind,
        max_nodes=settings.max_nodes,
    )
    return Registry(settings.heartbeat_s, admission, cloud_models=settings.cloud_models)


def _silence(settings: RouterSettings) -> SilenceLimits:
    return SilenceLimits(
        hedge=settings.hedge,
        hedge_floor_s=settings.hedge_floor_s,
        hedge_ceiling_s=settings.hedge_ceiling_s,
        stall_floor_s=settings.stall_floor_s,
        stall_ceiling_s=settings.stall_ceiling_s,
    )


def _http(settings: RouterSettings) -> Options:
    return Options(
        auto_decompress=False,  # no real Ollama does; zstd on /v1 is unpacked by api/zstd.py
        logger=_SILENT,
        keepalive_timeout=settings.idle_timeout_s,
        lingering_time=LINGER_S,
        max_line_size=settings.max_header_bytes,
        max_field_size=settings.max_header_bytes,
    )


def _ended(count: Callable[[Trace], None], keep: Callable[[Trace], None], trace: Trace) -> None:
    """A request has ended: it is counted and kept."""
    count(trace)
    keep(trace)


@asynccontextmanager
async def running(
    settings: RouterSettings, origins: Mapping[str, Origin] = MappingProxyType({})
) -> AsyncIterator[Herd]:
    """A router that listens from enter to exit; exit drains it. `origins` are where the settings
    come from.
    """
    async with remembering(settings) as memory:
        live = LiveSettings(settings, origins, memory.setting_store, memory.changed_settings)
        herd = Herd(live, memory)
        herd.registry.restore(memory.nodes)
        static = StaticNodes(settings.engine, herd.registry, settings.heartbeat_s)
        for node_id in static.gone():
            herd.registry.forget(node_id)
            await memory.forget(node_id)
        listening = await herd.listen()
        static.start()
        ticking = spawn(herd.pass_time(), name="tick")
        hearing = spawn(herd.listen_to_silence(), name="silence")
        watching = spawn(herd.watch.run(), name="watch")
        following = spawn(live.follow(), name="settings") if settings.database_url else None
        renewing = spawn(herd.certificate.watch(), name="tls") if herd.certificate else None
        try:
            yield herd
        finally:
            listening.close()
            await herd.drain()
            await static.close()
            await cancel_and_wait(ticking, hearing, watching, renewing, following)
            if herd.telemetry is not None:
                await asyncio.to_thread(herd.watch.close)
                await asyncio.to_thread(herd.telemetry.close)


async def run(
    settings: RouterSettings,
    origins: Mapping[str, Origin] = MappingProxyType({}),
    load: Callable[[], Loaded[RouterSettings]] | None = None,
) -> None:
    """Run until cancelled; returns after a clean shutdown. The process is the router's alone.

    `load` reads the settings again when the process gets a SIGHUP (there is none on Windows).
    """
    async with running(settings, origins) as herd:
        if load is not None and hasattr(signal, "SIGHUP"):
            asyncio.get_running_loop().add_signal_handler(
                signal.SIGHUP, lambda: spawn(herd.live.read_again(load), name="settings")
            )
        gc.collect()
        gc.freeze()  # what is here now stays: modules, routes, the fleet
        gc.set_threshold(*GC_THRESHOLDS)
        _log.info("herd is listening", host=settings.host, port=herd.port, version=__version__)
        async with _announced(settings, herd.port):
            await asyncio.Event().wait()


@asynccontextmanager
async def _announced(settings: RouterSettings, port: int) -> AsyncIterator[None]:
    if not settings.mdns:
        yield
        return
    from ollama_herd.discovery import Advertisement  # noqa: PLC0415 - zeroconf only when used

    async with Advertisement(port=port, is_tls=settings.tls_cert is not None):
        yield
