"""Engines that the settings name, on machines without an agent: the router looks at them itself.

Each is a node of the fleet. What a look finds becomes a report as an agent would make it, and the
registry applies it; requests never wait for a look. Of such a machine nothing but its engine is
known: no memory, no load, no slots but those an engine tells.
"""

import asyncio
from collections.abc import Iterable

import aiohttp
import msgspec
import structlog

from ollama_herd import __version__
from ollama_herd.clock import now_s
from ollama_herd.core.fleet import USABLE
from ollama_herd.core.node import (
    STATIC_PREFIX,
    EngineKind,
    EngineReport,
    Node,
    NodeReport,
    Platform,
    Reach,
    Vitals,
)
from ollama_herd.engines.address import EngineAddress, parse_engine_url
from ollama_herd.engines.detect import HerdRouterFound, probe_of
from ollama_herd.engines.probe import EngineFailure, EngineHttp, EngineProbe, Findings, resolve
from ollama_herd.router.registry import Registry
from ollama_herd.tasks import cancel_and_wait, spawn

_log = structlog.get_logger(__name__)

CONNECT_TIMEOUT_S = 2.0
"""Within a local network a connection takes milliseconds; a machine that is off answers nothing."""

LONGEST_PAUSE_S = 30.0
"""Between two looks at an engine that does not answer; each failed look doubles the pause."""


class NamedEngine(msgspec.Struct, frozen=True):
    """An engine of the settings, and the name of its machine."""

    name: str
    address: EngineAddress

    @property
    def node_id(self) -> str:
        return f"{STATIC_PREFIX}{self.address.netloc}"


def named_engines(wanted: Iterable[str]) -> tuple[NamedEngine, ...]:
    """`[NAME=]http://HOST:PORT`, as the settings have it; without a name it is the host's, with
    the port where the host has several.
    """
    split = [text.rpartition("=") for text in wanted]
    found = [(name, parse_engine_url(url)) for name, _, url in split]
    hosts = [address.host for _, address in found]
    return tuple(
        NamedEngine(
            name or (address.host if hosts.count(address.host) == 1 else address.netloc), address
        )
        for name, address in found
    )


class StaticNode:
    """One of them. Its reports are full ones: nothing is sent, so deltas would save nothing."""

    def __init__(
        self, named: NamedEngine, registry: Registry, session: aiohttp.ClientSession, every_s: float
    ) -> None:
        self.named = named
        self._registry = registry
        self._session = session
        self._every_s = every_s
        self._pause_s = every_s
        self._probe: EngineProbe | None = None
        self._at = named.address  # with the host's IP address once it is known
        self._boot = int(now_s() * 1000)
        self._seq = 0
        self._is_agents = False
        self._report = EngineReport(
            engine_id=f"{EngineKind.OLLAMA.value}-{named.address.port}",
            kind=EngineKind.OLLAMA,
            port=named.address.port,
            reach=Reach.LAN,
        )

    async def run(self) -> None:
        """Look again and again, for ever."""
        while True:
            await self.look()
            await asyncio.sleep(self._pause_s)

    async def look(self) -> None:
        """Look once, and report what was found; a failure of the engine is part of that."""
        try:
            probe = self._probe or await self._identify()
            findings = await probe.look(thorough=bool(self._report.error))
        except EngineFailure as failure:
            await self._failed(failure)
            return
        self._pause_s = self._every_s
        self._take(self._found(probe.kind, findings))

    async def close(self) -> None:
        if self._probe is not None:
            await self._probe.close()
            self._probe = None

    async def _identify(self) -> EngineProbe:
        """At the first address of the host where something listens. Raises EngineFailure."""
        host, port = self.named.address.host, self.named.address.port
        addresses = await resolve(host)
        if not addresses:
            raise EngineFailure(f"there is no address for {host!r}; correct --engine", is_gone=True)
        for place, address in enumerate(addresses, 1):
            self._at = EngineAddress(address, port)
            try:
                self._probe = await probe_of(EngineHttp(self._session, self._at))
            except EngineFailure as failure:
                if not failure.is_gone or place == len(addresses):
                    raise
            else:
                return self._probe
        raise AssertionError("the last address gives a probe or raises")

    def _found(self, kind: EngineKind, findings: Findings) -> EngineReport:
        return EngineReport(
            engine_id=f"{kind.value}-{self._at.port}",
            kind=kind,
            port=self._at.port,
            reach=Reach.LAN,
            version=findings.version,
            models=findings.models,
            loaded=findings.loaded,
            slots=findings.slots,
            max_loaded=findings.max_loaded,
            speaks_anthropic=findings.speaks_anthropic,
        )

    async def _failed(self, failure: EngineFailure) -> None:
        """Told once; then the node falls silent where nothing listens, as a machine that is off."""
        await self.close()  # another engine may listen there next, at another address of the host
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        is_new = not self._report.error
        if isinstance(failure, HerdRouterFound) and is_new:
            _log.error("no engine", node=self.named.name, reason=str(failure))
        if is_new or not failure.is_gone:
            loaded = () if failure.is_gone else self._report.loaded
            self._take(msgspec.structs.replace(self._report, loaded=loaded, error=str(failure)))

    def _take(self, report: EngineReport) -> None:
        self._report = report
        if self._has_agent():
            return
        self._seq += 1
        self._registry.looked(
            NodeReport(
                node_id=self.named.node_id,
                boot=self._boot,
                seq=self._seq,
                name=self.named.name,
                platform=Platform(),
                vitals=Vitals(),
                engines=(report,),
            ),
            self._at.host,
        )

    def _has_agent(self) -> bool:
        """Whether an agent reports the same engine: then it must not count twice."""
        nodes = self._registry.fleet.nodes
        agent = next((node for node in nodes.values() if self._is_same(node)), None)
        if agent is not None and not self._is_agents:
            reason = f"herd-node runs there: node {agent.name!r} reports this engine"
            _log.warning("engine left to its agent", node=self.named.name, reason=reason)
            self._registry.forget(self.named.node_id)
        self._is_agents = agent is not None
        return self._is_agents

    def _is_same(self, node: Node) -> bool:
        is_there = node.has_agent and node.status in USABLE and node.address == self._at.host
        return is_there and any(
            engine.port == self._at.port and engine.reach is not Reach.REMOTE
            for engine in node.engines
        )


class StaticNodes:
    """All of them; they look from `start` on."""

    def __init__(self, wanted: Iterable[str], registry: Registry, heartbeat_s: float) -> None:
        """Raises ValueError for what is no `[NAME=]http://HOST:PORT`."""
        self._named = named_engines(wanted)
        self._registry = registry
        self._heartbeat_s = heartbeat_s
        self._nodes: list[StaticNode] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._session: aiohttp.ClientSession | None = None

    def gone(self) -> tuple[str, ...]:
        """Ids of nodes of former settings."""
        wanted = {named.node_id for named in self._named}
        nodes = self._registry.fleet.nodes.values()
        return tuple(n.node_id for n in nodes if not n.has_agent and n.node_id not in wanted)

    def start(self) -> None:
        if not self._named:
            return
        self._session = _session()
        self._nodes = [
            StaticNode(named, self._registry, self._session, self._heartbeat_s)
            for named in self._named
        ]
        self._tasks = [
            spawn(node.run(), name=f"look at {node.named.address.netloc}") for node in self._nodes
        ]

    async def close(self) -> None:
        await cancel_and_wait(*self._tasks)
        for node in self._nodes:
            await node.close()
        if self._session is not None:
            await self._session.close()


def _session() -> aiohttp.ClientSession:
    """For engines: near, so no proxy; nothing of one engine is shown to another."""
    return aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": f"herd/{__version__}"},
        trust_env=False,
    )
