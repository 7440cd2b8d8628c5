"""Watches the engines of this machine, each on its own rhythm, and keeps what is to be reported.

A heartbeat takes what is here; it never waits for an engine.
"""

import asyncio
import os
from collections.abc import Callable, Iterable

import aiohttp
import msgspec
import structlog

from ollama_herd.agent.background import start_in_thread
from ollama_herd.agent.engine_limits import Limits, read_limits
from ollama_herd.agent.reach import find_reach, is_this_machine
from ollama_herd.clock import monotonic_s
from ollama_herd.core.node import EngineKind, EngineReport, Reach
from ollama_herd.core.request import Kind
from ollama_herd.engines.address import DEFAULT_PORT, EngineAddress
from ollama_herd.engines.detect import HerdRouterFound, probe_of
from ollama_herd.engines.media import MediaProbe, Purpose
from ollama_herd.engines.probe import EngineFailure, EngineHttp, EngineProbe, Findings
from ollama_herd.tasks import cancel_and_wait, spawn

_log = structlog.get_logger(__name__)

LOOK_EVERY_S = 2.0
REACH_EVERY_S = 10.0
LIMITS_TIMEOUT_S = 10.0

OWN_ENGINE = EngineAddress("127.0.0.1", DEFAULT_PORT)
"""Where the Ollama of this machine is when nothing else is said."""


class Surroundings:
    """What a watch needs beside its engine.

    `slots` is what the settings say. `say` hears lines for people, `changed` that the router
    should hear news.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        slots: int | None,
        say: Callable[[str], None],
        changed: Callable[[], None],
    ) -> None:
        self.session = session
        self.slots = slots
        self.say = say
        self.changed = changed
        self.seen_as = ""

    def set_seen_as(self, address: str) -> None:
        """The address of this machine that the router sees."""
        self.seen_as = address


class EngineWatch:
    """One engine. `fallback` takes its place when it turns out to be a herd's router."""

    def __init__(
        self,
        address: EngineAddress,
        around: Surroundings,
        fallback: EngineAddress | None = None,
        purpose: Purpose | None = None,
    ) -> None:
        """`purpose` of a server for pictures or speech; without it the engine tells what it is."""
        self.address = address
        self._purpose = purpose
        self._around = around
        self._fallback = fallback
        self._probe: EngineProbe | None = None
        self._findings = Findings()
        self._limits = Limits()
        self._reading: asyncio.Task[None] | None = None
        self._reach_due_s = 0.0
        self._seen_as = ""
        self.looked = asyncio.Event()
        self.report = EngineReport(
            engine_id=self._id(EngineKind.OLLAMA),
            kind=EngineKind.OLLAMA if purpose is None else EngineKind.OPENAI,
            port=address.port,
            error=f"{address.netloc} has not been asked yet",
        )

    async def run(self) -> None:
        """Look again and again, for ever."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self) -> None:
        """Look once and take in what was found; an engine's failure is part of that."""
        try:
            await self._look()
        except HerdRouterFound as failure:
            if self._fallback is None or self._fallback == self.address:
                self._take_failure(failure)
            else:
                self._around.say(f"{failure}; using {self._fallback.netloc} instead")
                self.address = self._fallback
                await self.look()
        except EngineFailure as failure:
            self._take_failure(failure)
        self.looked.set()

    async def close(self) -> None:
        await cancel_and_wait(self._reading)
        await self._close_probe()

    async def _look(self) -> None:
        heals = bool(self.report.error)
        probe = self._probe
        if heals or probe is None:  # another engine may listen there now
            probe = await self._identify()
        findings = await probe.look(thorough=heals)
        if heals and probe.kind is EngineKind.OLLAMA:
            await cancel_and_wait(self._reading)
            self._reading = spawn(self._read_limits(), name=f"limits of {self.address.netloc}")
        self._take(probe.kind, findings, await self._reach())

    async def _identify(self) -> EngineProbe:
        http = EngineHttp(self._around.session, self.address)
        if self._purpose is not None:
            self._probe = self._probe or MediaProbe(http, self._purpose)
            return self._probe
        self._probe = await probe_of(http, self._probe)
        return self._probe

    def _id(self, kind: EngineKind) -> str:
        return engine_id(kind if self._purpose is None else self._purpose.kind, self.address)

    async def _close_probe(self) -> None:
        if self._probe is not None:
            await self._probe.close()
            self._probe = None

    async def _reach(self) -> Reach:
        now_s = monotonic_s()
        seen_as = self._around.seen_as
        if self.report.error or now_s >= self._reach_due_s or seen_as != self._seen_as:
            self._seen_as = seen_as
            self._reach_due_s = now_s + REACH_EVERY_S
            return await find_reach(self.address, seen_as)
        return self.report.reach

    def _take(self, kind: EngineKind, findings: Findings, reach: Reach) -> None:
        self._findings = findings
        self._publish(
            EngineReport(
                engine_id=self._id(kind),
                kind=kind,
                port=self.address.port,
                reach=reach,
                version=findings.version,
                models=findings.models,
                loaded=findings.loaded,
                slots=self._slots(findings),
                max_loaded=_first_told(findings.max_loaded, self._limits.max_loaded),
                speaks_anthropic=findings.speaks_anthropic,
                context_length=self._limits.context_length,
                keep_alive=self._limits.keep_alive if kind is EngineKind.OLLAMA else "",
            )
        )

    def _slots(self, findings: Findings) -> int | None:
        if self._purpose is not None:  # `slots` of the settings are those of text
            return findings.slots
        return _first_told(self._around.slots, findings.slots, self._limits.slots)

    def _take_failure(self, failure: EngineFailure) -> None:
        """The models stay, so that the router can tell why they cannot be used now."""
        self._publish(
            msgspec.structs.replace(
                self.report,
                loaded=() if failure.is_gone else self.report.loaded,
                error=str(failure),
            )
        )

    def _publish(self, report: EngineReport) -> None:
        before, self.report = self.report, report
        if not self.looked.is_set() or before.error != report.error:
            self._around.say(describe_engine(report, self.address))
        if not self.looked.is_set() or differs(before, report):
            self._around.changed()

    async def _read_limits(self) -> None:
        """From the environment of the engine's process, where that runs on this machine."""
        self._limits = Limits()
        if not await is_this_machine(self.address.host):
            return
        reading = start_in_thread(
            lambda: read_limits(self.address.port, os.environ), name="engine-limits"
        )
        try:
            async with asyncio.timeout(LIMITS_TIMEOUT_S):
                self._limits = await reading
        except TimeoutError:
            _log.warning("the engine's environment could not be read in time")
            return
        if not self.report.error:
            self._take(self.report.kind, self._findings, self.report.reach)


class Engines:
    """All engines of this node."""

    def __init__(self, watches: Iterable[EngineWatch]) -> None:
        self._watches = tuple(watches)
        self.tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self.tasks = [
            spawn(watch.run(), name=f"watch {watch.address.netloc}") for watch in self._watches
        ]

    async def first(self, within_s: float) -> None:
        """Wait until each engine has been looked at, but not longer than `within_s`."""
        try:
            async with asyncio.timeout(within_s):
                for watch in self._watches:
                    await watch.looked.wait()
        except TimeoutError:
            return

    async def close(self) -> None:
        await cancel_and_wait(*self.tasks)
        for watch in self._watches:
            await watch.close()

    def reports(self) -> tuple[EngineReport, ...]:
        return tuple(watch.report for watch in self._watches)

    def find(self, wanted: str) -> EngineAddress | None:
        """The address of an engine by its id."""
        for watch in self._watches:
            if watch.report.engine_id == wanted:
                return watch.address
        return None


def engine_id(kind: EngineKind | Kind, address: EngineAddress) -> str:
    """`ollama-11434`; with the host where that is not this machine by all means."""
    host = "" if address.is_loopback else f"{address.host}-"
    return f"{kind.value}-{host}{address.port}"


def _first_told(*values: int | None) -> int | None:
    return next((value for value in values if value is not None), None)


def differs(before: EngineReport, after: EngineReport) -> bool:
    """Whether the router should hear of it at once: what can be served has changed."""
    return (
        before.engine_id != after.engine_id
        or before.error != after.error
        or before.reach is not after.reach
        or before.slots != after.slots
        or before.speaks_anthropic != after.speaks_anthropic
        or [(model.name, model.digest) for model in before.models]
        != [(model.name, model.digest) for model in after.models]
        or [model.name for model in before.loaded] != [model.name for model in after.loaded]
    )


def describe_engine(report: EngineReport, address: EngineAddress) -> str:
    """One line about an engine for people."""
    if report.error:
        return f"engine: {report.error}"
    name = "Ollama" if report.kind is EngineKind.OLLAMA else "OpenAI-compatible engine"
    name = _MEDIA_NAMES.get(report.engine_id.partition("-")[0], name)
    version = f" {report.version}" if report.version else ""
    count = len(report.models)
    models = "1 model" if count == 1 else f"{count} models" if count else "no models yet"
    return f"engine: {name}{version} at {address.netloc}, {models}"


_MEDIA_NAMES = {Kind.IMAGE.value: "image server", Kind.SPEECH.value: "transcription server"}
