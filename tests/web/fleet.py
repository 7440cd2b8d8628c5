"""A fleet for looking at: reports of machines that are not there, fakes as their engines.

The machines, their graphics cards and models are made up but plausible; each engine answers, so
that requests through the router leave real traces.
"""

import contextlib
import itertools
import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from ollama_herd import clock
from tests.e2e.processes import Herd
from tests.fakes.models import FakeModel, embedding_model, model
from tests.fakes.ollama import FakeOllama
from tests.fakes.state import Settings

GB = 10**9
GIB = 2**30
BEAT_S = 0.5

CATALOGUE: Mapping[str, tuple[float, str, str, str, int]] = {
    "llama3.3:70b": (42.5, "llama", "70.6B", "Q4_K_M", 131072),
    "qwen3:32b": (20.2, "qwen3", "32.8B", "Q4_K_M", 40960),
    "qwen3:8b": (5.2, "qwen3", "8.2B", "Q4_K_M", 40960),
    "gemma3:27b": (17.4, "gemma3", "27.4B", "Q4_K_M", 131072),
    "gemma3:4b": (3.3, "gemma3", "4.3B", "Q4_K_M", 131072),
    "mistral-small3.2:24b": (15.2, "mistral3", "24.0B", "Q4_K_M", 131072),
    "gpt-oss:20b": (13.8, "gptoss", "20.9B", "MXFP4", 131072),
    "deepseek-r1:14b": (9.0, "qwen2", "14.8B", "Q4_K_M", 131072),
    "llama3.2:3b": (2.0, "llama", "3.2B", "Q4_K_M", 131072),
    "phi4:14b": (9.1, "phi3", "14.7B", "Q4_K_M", 16384),
    "nomic-embed-text:latest": (0.27, "nomic-bert", "137M", "F16", 2048),
}
"""Size in GB, family, parameters, quantisation, context."""


@dataclass
class Machine:
    """What one node reports."""

    name: str
    chip: str
    system: str
    memory_gib: int
    models: Sequence[str]
    loaded: Sequence[str]
    gpus: Sequence[tuple[str, str, float, bool]] = ()  # name, vendor, GiB, unified
    cpus: int = 16
    slots: int | None = 4
    error: str = ""
    disk_free_gb: int = 840
    extra: dict[str, Any] = field(default_factory=dict)


STUDIO = Machine(
    "studio",
    "Apple M3 Ultra",
    "darwin",
    256,
    ["llama3.3:70b", "qwen3:32b", "gemma3:27b", "gpt-oss:20b", "nomic-embed-text:latest"],
    ["llama3.3:70b", "qwen3:32b"],
    [("Apple M3 Ultra", "apple", 192, True)],
    cpus=28,
)
TOWER = Machine(
    "tower",
    "AMD Ryzen 9 7950X",
    "linux",
    64,
    ["qwen3:32b", "qwen3:8b", "gemma3:27b", "mistral-small3.2:24b", "nomic-embed-text:latest"],
    ["qwen3:32b", "nomic-embed-text:latest"],
    [("NVIDIA GeForce RTX 4090", "nvidia", 24, False)],
    cpus=32,
)
SMALL_FLEET = (STUDIO, TOWER)


def large_fleet(count: int = 50) -> list[Machine]:
    """Machines of a rack and of desks, the same at each call."""
    draw = random.Random(7)
    kinds = [
        ("gpu", "AMD EPYC 9354", "linux", 512, [("NVIDIA L40S", "nvidia", 48, False)] * 4, 64),
        ("desk", "Intel Core i7-14700", "linux", 64, [("RTX 4070", "nvidia", 12, False)], 28),
        ("mini", "Apple M4 Pro", "darwin", 64, [("Apple M4 Pro", "apple", 48, True)], 14),
        ("lab", "AMD Ryzen 7 7700", "windows", 32, [("RX 7900 XTX", "amd", 24, False)], 16),
    ]
    machines = []
    for number in range(1, count + 1):
        prefix, chip, system, memory, gpus, cpus = kinds[number % len(kinds)]
        names = draw.sample(sorted(CATALOGUE), 6)
        loaded = draw.sample(names[:4], draw.randint(0, 2))
        error = "connect: connection refused" if number == 17 else ""
        machines.append(
            Machine(
                f"{prefix}-{number:02d}",
                chip,
                system,
                memory,
                names,
                loaded,
                gpus,
                cpus,
                draw.choice([1, 2, 4, None]),
                error,
            )
        )
    return machines


def fake_models() -> list[FakeModel]:
    """The catalogue as engines have it."""
    made = []
    for name, (size_gb, family, parameters, quantisation, context) in CATALOGUE.items():
        maker = embedding_model if "embed" in name else model
        made.append(
            maker(
                name,
                size_bytes=int(size_gb * GB),
                family=family,
                parameter_size=parameters,
                quantization_level=quantisation,
                context_length=context,
            )
        )
    return made


class Heartbeats:
    """Reports every machine to the router again and again, from one thread."""

    def __init__(self, herd: Herd, machines: Sequence[Machine], ports: Sequence[int]) -> None:
        self._herd = herd
        self._machines = list(machines)
        self._ports = ports
        self._seq = itertools.count(1)
        self._draw = random.Random(11)
        self._boot = int(clock.now_s() * 1000)
        self._left: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="heartbeats")

    def __enter__(self) -> Self:
        self.beat()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)

    def leave(self, name: str) -> None:
        """The machine says goodbye and is silent from then on."""
        machine = next(m for m in self._machines if m.name == name)
        self._left.add(name)
        self._send(machine, {"leaving": True})

    def come_back(self, name: str) -> None:
        """A machine that left reports again."""
        self._left.discard(name)

    def beat(self) -> None:
        for number, machine in enumerate(self._machines):
            if machine.name not in self._left:
                self._send(machine, self._body(machine, self._ports[number % len(self._ports)]))

    def _work(self) -> None:
        while not self._stop.wait(BEAT_S):
            with contextlib.suppress(OSError):
                self.beat()

    def _send(self, machine: Machine, body: Mapping[str, Any]) -> None:
        head = {"node_id": f"id-{self._machines.index(machine)}", "boot": self._boot}
        report = {**head, "seq": next(self._seq), "name": machine.name, **body}
        key = {"Authorization": f"Bearer key-{self._machines.index(machine)}"}
        answer = self._herd.call("POST", "/fleet/heartbeat", report, key)
        assert answer.status == 200, answer.body

    def _body(self, machine: Machine, port: int) -> dict[str, Any]:
        return {
            "agent_version": "0.1.0",
            "platform": {"system": machine.system, "machine": "arm64", "chip": machine.chip},
            "vitals": self._vitals(machine),
            "engines": [
                {
                    "engine_id": f"ollama-{port}",
                    "kind": "ollama",
                    "port": port,
                    "version": "0.13.2",
                    "slots": machine.slots,
                    "error": machine.error,
                    "models": [_listed(name) for name in machine.models],
                    "loaded": [_in_memory(name) for name in machine.loaded],
                }
            ],
            **machine.extra,
        }

    def _vitals(self, machine: Machine) -> dict[str, Any]:
        used = sum(_size(name) for name in machine.loaded) * 1.15
        total = machine.memory_gib * GIB
        unified = any(gpu[3] for gpu in machine.gpus)
        share = 1 / max(1, len(machine.gpus))
        busy = 62.0 if machine.loaded else 3.0
        return {
            "memory_total_bytes": total,
            "memory_available_bytes": int(total * 0.78 - (used if unified else 0)),
            "cpu_count": machine.cpus,
            "cpu_percent": round(self._draw.uniform(4, 22), 1),
            "disk_total_bytes": 2000 * GB,
            "disk_free_bytes": machine.disk_free_gb * GB,
            "gpus": [
                {
                    "name": name,
                    "vendor": vendor,
                    "memory_total_bytes": int(gib * GIB),
                    "memory_free_bytes": max(0, int(gib * GIB - used * share)),
                    "utilisation_percent": round(self._draw.uniform(busy * 0.7, busy), 1),
                    "temperature_c": 61.0,
                    "unified": is_unified,
                }
                for name, vendor, gib, is_unified in machine.gpus
            ],
        }


def _size(name: str) -> int:
    return int(CATALOGUE[name][0] * GB) if name in CATALOGUE else GB


def _listed(name: str) -> dict[str, Any]:
    size_gb, family, parameters, quantisation, context = CATALOGUE.get(
        name, (1.0, "llama", "1B", "Q4_0", 4096)
    )
    return {
        "name": name,
        "digest": model(name).digest,
        "size_bytes": int(size_gb * GB),
        "details": {
            "family": family,
            "parameter_size": parameters,
            "quantization_level": quantisation,
            "context_length": context,
        },
        "capabilities": ["embedding"] if "embed" in name else ["completion", "tools"],
    }


def _in_memory(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "size_bytes": int(_size(name) * 1.15),
        "size_vram_bytes": int(_size(name) * 1.15),
        "context_length": 8192,
        "expires_at": "2318-02-01T00:00:00Z",
    }


@contextlib.contextmanager
def fleet(
    herd: Herd,
    machines: Sequence[Machine] = SMALL_FLEET,
    *,
    engines: int = 2,
    settings: Callable[[], Settings] = lambda: Settings(token_ms=8, prefill_ms=60, num_parallel=4),
) -> Iterator[tuple[Heartbeats, list[FakeOllama]]]:
    """The machines at the router, served by so many fakes in turns, until the block ends."""
    with contextlib.ExitStack() as stack:
        fakes = [
            stack.enter_context(FakeOllama(fake_models(), settings()).in_thread())
            for _ in range(min(engines, len(machines)))
        ]
        beats = stack.enter_context(Heartbeats(herd, machines, [fake.port for fake in fakes]))
        yield beats, fakes
