"""The herd under test: `herd` as a process, as a user starts it, with a fleet of two nodes.

The bench speaks for the nodes: it posts the heartbeats an agent would, built from the router's
own types, so that no agent's CPU is on the cores that are measured.
"""

import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import msgspec

import engine_api
import procs
import wire
from ollama_herd.core.node import (
    EngineKind,
    EngineReport,
    LoadedModel,
    Model,
    ModelDetails,
    NodeReport,
    Platform,
    ReportReply,
    Vitals,
)

_SLOTS = 10_000
"""More than any load here has in flight: queueing is on, yet nothing has to wait."""

_START_S = 60.0  # on a machine that is busy with other work

_INTERVAL_S = 2.0  # the agents' default


def executable() -> str | None:
    """The `herd` of the environment that runs the bench."""
    command = Path(sys.executable).parent / "herd"
    return str(command) if command.exists() else None


class Herd:
    """A router with its own home, tracing and all else at their defaults."""

    def __init__(
        self,
        home: Path,
        engines: Sequence[int],
        fast: Sequence[int],
        core: int | None,
        *,
        models: Sequence[str] = (wire.MODEL,),
        site: Path | None = None,
        program: Path | None = None,
    ) -> None:
        """`site`: where the package is if not the environment's own is meant. `program`: what runs
        instead of the command `herd`, with its arguments.
        """
        home.mkdir(parents=True)
        self.port = self.fast_port = procs.free_port()
        command = [executable() or "herd"] if program is None else [sys.executable, str(program)]
        command += ["--host", "127.0.0.1", "--port", str(self.port)]
        log = (home / "herd.log").open("wb")
        with procs.on_core(core), log:
            self.process = subprocess.Popen(
                [*command, "--home", str(home), "--no-mdns"],
                env=os.environ if site is None else {**os.environ, "PYTHONPATH": str(site)},
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        self._stopped = threading.Event()
        try:
            procs.wait_for_port(self.port, self.process, _START_S)
            self._nodes = [
                _Node(
                    self.port,
                    number,
                    [(port, models) for port in engines[number::2]]
                    + [(port, [wire.FAST_MODEL]) for port in fast[number::2]],
                )
                for number in range(2)
            ]
            for node in self._nodes:
                node.report()
        except (RuntimeError, OSError) as failed:
            procs.stop(self.process)
            said = (home / "herd.log").read_text(errors="replace")[-2000:]
            raise RuntimeError(f"herd did not start: {failed}\n{said}") from failed
        self._beats = threading.Thread(target=self._beat, daemon=True)
        self._beats.start()

    def _beat(self) -> None:
        while not self._stopped.wait(_INTERVAL_S):
            for node in self._nodes:
                try:
                    node.report()
                except OSError as failed:
                    print(f"heartbeat of {node.node_id}: {failed}", file=sys.stderr)

    def stop(self) -> None:
        self._stopped.set()
        self._beats.join(10)
        procs.stop(self.process)


class _Node:
    """One node's heartbeats: all of it first, then only what changes all the time."""

    def __init__(
        self, router_port: int, number: int, engines: list[tuple[int, Sequence[str]]]
    ) -> None:
        self.node_id = f"bench-{number}"
        self._url = f"http://127.0.0.1:{router_port}/fleet/heartbeat"
        self._seq = 0
        self._boot = int(time.time() * 1000)  # noqa: TID251
        self._is_known = False
        self._engines = tuple(_engine(port, models) for port, models in engines)

    def report(self) -> None:
        """Post one heartbeat; OSError when the router does not take it."""
        self._seq += 1
        report = NodeReport(
            node_id=self.node_id,
            boot=self._boot,
            seq=self._seq,
            name=self.node_id,
            agent_version="bench",
            platform=None if self._is_known else Platform(system="linux", machine="x86_64"),
            vitals=_vitals(),
            engines=None if self._is_known else self._engines,
        )
        reply = self._post(msgspec.json.encode(report))
        if not reply.accepted:
            raise OSError(f"the router refused a heartbeat: {reply.reason}")
        self._is_known = not reply.resend

    def _post(self, body: bytes) -> ReportReply:
        request = urllib.request.Request(self._url, data=body)  # noqa: S310 - loopback http
        request.add_header("Authorization", f"Bearer bench-key-of-{self.node_id}")
        request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
                return msgspec.json.decode(answer.read(), type=ReportReply)
        except urllib.error.HTTPError as refused:
            raise OSError(f"{refused} {refused.read()[:300]!r}") from refused


def _engine(port: int, models: Sequence[str]) -> EngineReport:
    return EngineReport(
        engine_id=f"ollama-{port}",
        kind=EngineKind.OLLAMA,
        port=port,
        version="0.13.0",
        models=tuple(_found(name) for name in models),
        loaded=tuple(_loaded(name) for name in models),
        slots=_SLOTS,
        max_loaded=3,
    )


_SIZE_BYTES: int = engine_api.MODEL["size"]
_DETAILS = msgspec.convert(engine_api.DETAILS, ModelDetails)


def _digest(name: str) -> str:
    known = {wire.MODEL: engine_api.MODEL["digest"], wire.FAST_MODEL: "f" * 64}
    return known.get(name) or "e" * 64


def _found(name: str) -> Model:
    is_embedding = name.startswith("embed")
    capabilities = ("embedding",) if is_embedding else tuple(engine_api.MODEL["capabilities"])
    return Model(
        name=name,
        digest=_digest(name),
        weights=_digest(name),
        size_bytes=_SIZE_BYTES,
        modified_at=engine_api.MODEL["modified_at"],
        details=_DETAILS,
        capabilities=capabilities,
    )


def _loaded(name: str) -> LoadedModel:
    return LoadedModel(
        name=name,
        digest=_digest(name),
        size_bytes=_SIZE_BYTES,
        size_vram_bytes=_SIZE_BYTES,
        context_length=4096,
        expires_at="2099-01-01T00:00:00Z",
        details=_DETAILS,
    )


def _vitals() -> Vitals:
    return Vitals(
        memory_total_bytes=64_000_000_000,
        memory_available_bytes=48_000_000_000,
        cpu_count=16,
        cpu_percent=5.0,
        load_1m=0.5,
        disk_total_bytes=1_000_000_000_000,
        disk_free_bytes=500_000_000_000,
    )
