"""Simulated machines and models: what they say of themselves, and how fast they really are.

What a machine reports leads the router to the priors of `core.hardware`; its true rates differ
from these by a factor drawn once for each machine and model. The distance is the scenario's.
"""

from collections.abc import Mapping
from math import exp
from random import Random
from types import MappingProxyType

import msgspec

from ollama_herd.core import hardware as hw
from ollama_herd.core.node import Gpu, Model, ModelDetails, Platform, Vitals

GB = 10**9

USABLE_SHARE = 0.8
"""Of a machine's memory models may take so much; the rest is the system's and the owner's."""

KV_BANDWIDTH_SHARE = 0.7
"""Of the memory bandwidth while a KV cache is read (routing study)."""


class ModelSpec(msgspec.Struct, frozen=True):
    """A model as its files are. `kv_mb` is a token's share of the KV cache."""

    name: str
    size_gb: float
    parameters: str
    kv_mb: float
    is_embedding: bool = False

    def on_disk(self) -> Model:
        return Model(
            name=self.name,
            digest=f"sha256:{self.name}",
            weights=f"sha256:weights-{self.name}",
            size_bytes=int(self.size_gb * GB),
            modified_at="2026-01-01T00:00:00Z",
            details=ModelDetails(parameter_size=self.parameters, quantization_level="Q4_K_M"),
            capabilities=("embedding",) if self.is_embedding else ("completion",),
        )

    @property
    def resident_gb(self) -> float:
        """Memory it takes once loaded."""
        return hw.needed_bytes(int(self.size_gb * GB)) / GB


# Sizes of Ollama's default tags; KV per token from layers, heads and f16 values.
MODELS: Mapping[str, ModelSpec] = MappingProxyType(
    {
        spec.name: spec
        for spec in (
            ModelSpec("llama3.2:3b", 2.0, "3.2B", 0.115),
            ModelSpec("qwen3:8b", 5.2, "8.2B", 0.147),
            ModelSpec("gemma3:12b", 8.1, "12.2B", 0.20),
            ModelSpec("qwen3:14b", 9.3, "14.8B", 0.164),
            ModelSpec("qwen3:30b-a3b", 18.6, "30.5B", 0.098),
            ModelSpec("qwen3:32b", 20.2, "32.8B", 0.262),
            ModelSpec("llama3.3:70b", 42.5, "70.6B", 0.328),
            ModelSpec("nomic-embed-text:latest", 0.27, "137M", 0.02, is_embedding=True),
        )
    }
)


class Machine(msgspec.Struct, frozen=True):
    """A machine as it describes itself. `vram_gb` 0: models run from its memory."""

    name: str
    chip: str
    bandwidth_gb_s: int
    memory_gb: int
    vram_gb: int = 0
    gpu: str = ""
    slots: int = 1
    has_owner: bool = False
    models: tuple[str, ...] | None = None  # on its disk; None: all that fit

    @property
    def room_gb(self) -> float:
        """What models may take of its fast memory."""
        return float(self.vram_gb) or self.memory_gb * USABLE_SHARE

    @property
    def platform(self) -> Platform:
        is_apple = self.chip.startswith("Apple")
        return Platform(
            system="darwin" if is_apple else "linux",
            machine="arm64" if is_apple else "x86_64",
            chip=self.chip,
            memory_bandwidth_bytes_s=(60 if self.vram_gb else self.bandwidth_gb_s) * GB,
        )

    def vitals(self, used_gb: float, foreign_percent: float) -> Vitals:
        """What it says of itself while models take `used_gb`."""
        free = int(max(0.0, self.room_gb - used_gb) * GB)
        gpus: tuple[Gpu, ...] = ()
        if self.vram_gb:
            total = self.vram_gb * GB
            gpus = (
                Gpu(
                    name=self.gpu, vendor="nvidia", memory_total_bytes=total, memory_free_bytes=free
                ),
            )
            free = int(self.memory_gb * USABLE_SHARE * GB)
        return Vitals(
            memory_total_bytes=self.memory_gb * GB,
            memory_available_bytes=free,
            cpu_count=8,
            foreign_load_percent=foreign_percent,
            gpus=gpus,
        )


KINDS = {
    machine.name: machine
    for machine in (
        Machine("mini", "Apple M4", 120, 16),
        Machine("mini-pro", "Apple M4 Pro", 273, 48, slots=2),
        Machine("mbp-max", "Apple M4 Max", 546, 64, slots=2, has_owner=True),
        Machine("studio", "Apple M2 Ultra", 800, 128, slots=4),
        Machine("air", "Apple M2", 100, 16, has_owner=True),
        Machine("tower-4090", "Intel Core i9", 1008, 64, 24, "NVIDIA GeForce RTX 4090", slots=4),
        Machine("tower-3060", "AMD Ryzen 7", 360, 32, 12, "NVIDIA GeForce RTX 3060", slots=2),
        Machine("nuc", "Intel Core i7", 70, 32),
    )
}

FLEETS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "f3": ("mini-pro", "mbp-max", "tower-4090"),
        "f4": ("mini", "mini-pro", "studio", "tower-3060"),
        "f6": ("mini", "mini-pro", "mbp-max", "studio", "tower-4090", "nuc"),
        "f8": tuple(KINDS),
        "f50": tuple(list(KINDS) * 7)[:50],
    }
)
"""Names of the built-in fleets, and the kinds of machine in each."""


def fleet(name: str) -> tuple[Machine, ...]:
    """A built-in fleet, machines numbered. Raises KeyError."""
    return tuple(
        msgspec.structs.replace(KINDS[kind], name=f"{number:02}-{kind}")
        for number, kind in enumerate(FLEETS[name], 1)
    )


class TrueRates(msgspec.Struct, frozen=True):
    """How fast a machine really runs a model. `kv_s` is per token of context and step."""

    prefill_tokens_s: float
    step_s: float
    load_s: float
    kv_s: float


class Truth:
    """The true rates of every machine and model, drawn once by seed.

    `wrong_ln` is the standard deviation of the logarithm of true over prior rate: 0.35 means that
    priors are right within 40 %, 1.4 that they are off by a factor of four.
    """

    def __init__(
        self,
        machines: tuple[Machine, ...],
        seed: int,
        wrong_ln: float,
        specs: Mapping[str, ModelSpec] = MODELS,
    ) -> None:
        self.specs = specs
        rng = Random(f"truth-{seed}")
        self.alpha: dict[str, float] = {}
        self._rates: dict[tuple[str, str], TrueRates] = {}
        for machine in machines:
            hardware = hw.hardware_of(machine.platform, machine.vitals(0.0, 0.0))
            slow = 0.8 * wrong_ln * _drawn(rng)
            self.alpha[machine.name] = hw.BATCHING_SLOWDOWN[hardware.compute] * exp(
                0.2 * _drawn(rng)
            )
            load_ln = 0.7 * wrong_ln * _drawn(rng)
            for spec in specs.values():
                own = 0.6 * wrong_ln
                scale = hw.scale_of(spec.on_disk())
                prefill = hw.prefill_tokens_s(hardware, scale) * exp(slow + own * _drawn(rng))
                step = hw.step_s(hardware, scale) * exp(-slow + own * _drawn(rng))
                load = 1 + spec.size_gb / hw.LOAD_RATE_GB_S[hardware.compute] * exp(load_ln)
                kv = spec.kv_mb / 1e3 / (KV_BANDWIDTH_SHARE * hardware.bandwidth_gb_s)
                self._rates[machine.name, spec.name] = TrueRates(prefill, step, load, kv)

    def rates(self, machine: str, model: str) -> TrueRates:
        return self._rates[machine, model]


def _drawn(rng: Random) -> float:
    return min(max(rng.gauss(0.0, 1.0), -1.5), 1.5)


def fits(machine: Machine, spec: ModelSpec) -> bool:
    """Whether the model is on the machine's disk and goes into its fast memory at all."""
    is_there = machine.models is None or spec.name in machine.models
    return is_there and spec.resident_gb <= machine.room_gb
