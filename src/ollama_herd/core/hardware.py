"""What to expect of a machine and a model before anything was measured: the predictor's priors.

Every figure here is an engineering estimate that a few served requests correct. Missing metadata
never makes a machine unusable: it gets a middling guess.
"""

import enum
import math
import re
from collections.abc import Sequence

import msgspec

from ollama_herd.core.abilities import purpose
from ollama_herd.core.node import Gpu, Model, Platform, Vitals

GB = 1e9


class Compute(enum.StrEnum):
    """What does the arithmetic; decides how prefill speed and batching follow from bandwidth."""

    APPLE = "apple"
    DISCRETE = "discrete"
    CPU = "cpu"


class Hardware(msgspec.Struct, frozen=True):
    """A machine as the priors see it. `bandwidth_gb_s` is that of the memory models run from."""

    compute: Compute
    bandwidth_gb_s: float
    host_bandwidth_gb_s: float
    vram_bytes: int  # of discrete GPUs
    memory_bytes: int  # 0: unknown
    gpus: int


class ModelScale(msgspec.Struct, frozen=True):
    """A model as the priors see it: sizes in GB, parameters in 10^9."""

    size_gb: float
    parameters_b: float
    active_b: float
    purpose: str = "text"  # as `abilities.purpose` has it

    @property
    def is_mixture(self) -> bool:
        """Whether only a part of the parameters is used for a token."""
        return self.active_b < 0.99 * self.parameters_b


TERAFLOPS_PER_GB_S = {Compute.APPLE: 0.026, Compute.DISCRETE: 0.090, Compute.CPU: 0.015}
"""Compute that comes with a GB/s of bandwidth; fitted in the routing study."""

BATCHING_SLOWDOWN = {Compute.APPLE: 0.40, Compute.DISCRETE: 0.15, Compute.CPU: 0.70}
"""How much each further sequence of a batch slows a decode step (routing study)."""

LOAD_RATE_GB_S = {Compute.APPLE: 3.0, Compute.DISCRETE: 2.0, Compute.CPU: 1.5}
"""Reading weights from an NVMe disk or the page cache into place (routing study)."""

DECODE_EFFICIENCY = 0.65
"""Share of the nominal memory bandwidth that decoding reaches (routing study)."""

FASTEST_STEP_S = 1 / 200
"""No prior promises more than 200 tokens/s: kernel launches and sampling have a floor."""

WORK_STEP_S = {
    "image": {Compute.APPLE: 2.0, Compute.DISCRETE: 0.4, Compute.CPU: 20.0},
    "speech": {Compute.APPLE: 0.04, Compute.DISCRETE: 0.02, Compute.CPU: 0.3},
}
"""Seconds a unit of work takes (`InferenceRequest.work`): a step of a picture of a megapixel, a
second of sound. Orders of magnitude only, not measured: models differ by more than machines do."""

DEFAULT_SIZE_GB = 4.5
DEFAULT_PARAMETERS_B = 7.0
"""A model nobody describes is taken for the commonest: 7 B parameters at four bits."""

# GB/s by chip, from Apple's published specifications.
_APPLE_BANDWIDTH = {
    "m1": (68, 200, 400, 800),
    "m2": (100, 200, 400, 800),
    "m3": (100, 150, 400, 819),
    "m4": (120, 273, 546, 1092),
    "m5": (153, 307, 614, 1228),
}
_APPLE_TIERS = ("", "pro", "max", "ultra")
_APPLE_UNKNOWN = 150.0

# GB/s by a part of the GPU's name, from the makers' data sheets; longer names first.
_GPU_BANDWIDTH = (
    ("h200", 4800.0),
    ("h100", 3350.0),
    ("b200", 8000.0),
    ("a100", 1555.0),
    ("mi300", 5300.0),
    ("v100", 900.0),
    ("l40", 864.0),
    ("l4", 300.0),
    ("a6000", 768.0),
    ("a10", 600.0),
    ("t4", 320.0),
    ("p40", 346.0),
    ("5090", 1792.0),
    ("5080", 960.0),
    ("5070 ti", 896.0),
    ("5070", 672.0),
    ("5060", 448.0),
    ("4090", 1008.0),
    ("4080", 717.0),
    ("4070 ti super", 672.0),
    ("4070", 504.0),
    ("4060 ti", 288.0),
    ("4060", 272.0),
    ("3090", 936.0),
    ("3080", 760.0),
    ("3070", 448.0),
    ("3060", 360.0),
    ("2080 ti", 616.0),
    ("2080", 448.0),
    ("2070", 448.0),
    ("2060", 336.0),
    ("1080 ti", 484.0),
    ("1080", 320.0),
    ("7900 xtx", 960.0),
    ("7900", 800.0),
    ("6900", 512.0),
    ("6800", 512.0),
    ("9070", 640.0),
)
_GPU_UNKNOWN = 400.0
_HOST_UNKNOWN = 40.0  # two channels of DDR4-3200 give 51 in theory

# Bytes a parameter by quantization, with the usual share of larger tensors.
_BYTES_PER_PARAMETER = (
    ("q2", 0.42),
    ("q3", 0.50),
    ("iq", 0.50),
    ("q4", 0.60),
    ("mxfp4", 0.60),
    ("q5", 0.70),
    ("q6", 0.83),
    ("q8", 1.07),
    ("f16", 2.0),
    ("bf16", 2.0),
    ("f32", 4.0),
)
_BYTES_PER_PARAMETER_UNKNOWN = 0.62

# Share of active parameters where neither name nor metadata tells it.
_ACTIVE_SHARE = {"gptoss": 0.17, "mixtral": 0.28, "llama4": 0.16, "deepseek2": 0.06}
_ACTIVE_SHARE_OF_MOE = 0.11  # Qwen3 30B-A3B, 235B-A22B, GLM 4.5

_ACTIVE_IN_NAME = re.compile(r"(?:^|[-_:.])a(\d+(?:\.\d+)?)b(?:$|[-_:.])")
_SIZE = re.compile(r"^(?:(\d+)x)?(\d+(?:\.\d+)?)\s*([kmbt])$")
_SIZE_UNIT = {"k": 1e-6, "m": 1e-3, "b": 1.0, "t": 1e3}


def hardware_of(platform: Platform, vitals: Vitals) -> Hardware:
    """What a machine's reports say of it, guesses filled in."""
    discrete = [g for g in vitals.gpus if _is_discrete(g)]
    given = platform.memory_bandwidth_bytes_s / GB
    is_apple = platform.system == "darwin" and platform.machine.startswith("arm")
    host = _HOST_UNKNOWN
    if discrete:
        compute = Compute.DISCRETE
        bandwidth = _gpu_bandwidth(discrete, given)
    elif is_apple or any(g.unified and g.vendor == "apple" for g in vitals.gpus):
        compute = Compute.APPLE
        bandwidth = host = given or _apple_bandwidth(platform.chip)
    else:
        compute = Compute.CPU
        bandwidth = host = given or _HOST_UNKNOWN
    return Hardware(
        compute=compute,
        bandwidth_gb_s=bandwidth,
        host_bandwidth_gb_s=host,
        vram_bytes=sum(g.memory_total_bytes for g in discrete),
        memory_bytes=vitals.memory_total_bytes,
        gpus=len(discrete),
    )


def _is_discrete(gpu: Gpu) -> bool:
    return not gpu.unified and gpu.vendor in {"nvidia", "amd"} and gpu.memory_total_bytes > 2e9


def _gpu_bandwidth(gpus: Sequence[Gpu], given: float) -> float:
    """Layers are split over GPUs one after the other, so more of them are not faster."""
    name = gpus[0].name.lower()
    for part, bandwidth in _GPU_BANDWIDTH:
        if part in name:
            return bandwidth
    # A figure that low would be the host's memory, not the card's.
    return given if given > 150 else _GPU_UNKNOWN


def _apple_bandwidth(chip: str) -> float:
    words = chip.lower().replace("-", " ").split()
    for word in words:
        tiers = _APPLE_BANDWIDTH.get(word)
        if tiers:
            tier = next((i for i, t in enumerate(_APPLE_TIERS) if t and t in words), 0)
            return float(tiers[tier])
    return _APPLE_UNKNOWN


def scale_of(model: Model) -> ModelScale:
    """Size and parameters of a model from whatever its metadata tells."""
    parameters, experts = _parameters_b(model.details.parameter_size)
    size = model.size_bytes / GB
    each = _bytes_per_parameter(model.details.quantization_level)
    if not parameters:
        parameters = size / each if size else DEFAULT_PARAMETERS_B
    if not size:
        size = parameters * each if model.details.parameter_size else DEFAULT_SIZE_GB
    # Below this a model is a test file; the floor keeps every rate finite.
    size, parameters = max(size, 0.01), max(parameters, 0.01)
    active = _active_b(model, parameters, experts)
    return ModelScale(size, parameters, active, purpose(model))


def _parameters_b(text: str) -> tuple[float, int]:
    found = _SIZE.match(text.strip().lower())
    if not found:
        return 0.0, 1
    experts = int(found[1] or 1)
    # 8x7B shares its attention layers: 47 B, not 56 B.
    share = 1.0 if experts == 1 else 0.84
    return experts * share * float(found[2]) * _SIZE_UNIT[found[3]], experts


def _bytes_per_parameter(quantization: str) -> float:
    text = quantization.lower()
    for part, size in _BYTES_PER_PARAMETER:
        if text.startswith(part):
            return size
    return _BYTES_PER_PARAMETER_UNKNOWN


def _active_b(model: Model, parameters_b: float, experts: int) -> float:
    named = _ACTIVE_IN_NAME.search(model.name.lower())
    if named:
        return min(parameters_b, float(named[1]))
    if experts > 1:
        return parameters_b * min(1.0, 2.2 / experts)
    family = model.details.family.lower()
    share = _ACTIVE_SHARE.get(family, _ACTIVE_SHARE_OF_MOE if "moe" in family else 1.0)
    return parameters_b * share


def prefill_tokens_s(hardware: Hardware, scale: ModelScale) -> float:
    """Prior of the prompt evaluation rate."""
    efficiency = 0.5 if scale.is_mixture else 1.0
    flops = TERAFLOPS_PER_GB_S[hardware.compute] * hardware.bandwidth_gb_s * 1e12 * efficiency
    fast = flops / (2e9 * scale.active_b)
    off = _offloaded_share(hardware, scale)
    if not off:
        return fast
    host = TERAFLOPS_PER_GB_S[Compute.CPU] * hardware.host_bandwidth_gb_s * 1e12 * efficiency
    slow = host / (2e9 * scale.active_b)
    return 1 / ((1 - off) / fast + off / slow)


def step_s(hardware: Hardware, scale: ModelScale) -> float:
    """Prior of the time a token, or a unit of other work, takes while a request is alone."""
    if scale.purpose in WORK_STEP_S:
        return WORK_STEP_S[scale.purpose][hardware.compute]
    read_gb = scale.size_gb * scale.active_b / scale.parameters_b
    if scale.is_mixture:
        read_gb = min(2 * read_gb, scale.size_gb)
    off = _offloaded_share(hardware, scale)
    seconds = read_gb * (1 - off) / hardware.bandwidth_gb_s
    seconds += read_gb * off / hardware.host_bandwidth_gb_s
    return max(FASTEST_STEP_S, seconds / DECODE_EFFICIENCY)


def _offloaded_share(hardware: Hardware, scale: ModelScale) -> float:
    """Part of the weights that will not go into the GPUs (a tenth is kept for KV and buffers)."""
    if hardware.compute is not Compute.DISCRETE:
        return 0.0
    room = 0.9 * hardware.vram_bytes / GB
    return 1 - room / scale.size_gb if scale.size_gb > room else 0.0


def fits_at_all(hardware: Hardware, scale: ModelScale) -> bool:
    """False only when the weights alone exceed all memory the machine says it has."""
    total = hardware.memory_bytes + hardware.vram_bytes
    return not hardware.memory_bytes or scale.size_gb * GB <= total


def needed_bytes(size_bytes: int) -> float:
    """Memory a model takes once loaded: weights, KV cache of a usual context, compute buffers."""
    return 1.15 * size_bytes + 0.5 * GB


def clipped(value: float, low: float, high: float) -> float:
    """`value` kept within bounds; a number that is none becomes `low`."""
    if math.isnan(value):
        return low
    return min(max(value, low), high)
