"""What one request teaches, and all that was learned as it is kept over a restart."""

import msgspec

from ollama_herd.core.hours import HourState


class ModelLengthsState(msgspec.Struct, frozen=True):
    """What is kept of a model over a restart."""

    model_key: str
    recent: tuple[float, ...]
    prompt_ratio: float


class Service(msgspec.Struct):
    """How one completed request went on its replica, as the scheduler saw it.

    Times in seconds, None where nobody measured. `progress_s` is decode time divided by the
    slowdown through other sequences and models, so `tokens * step / speed` should equal it.
    """

    prompt_tokens: float
    cached_tokens: float
    output_tokens: float
    prefill_s: float | None
    decode_s: float | None
    progress_s: float | None
    load_s: float | None
    stall_tokens_s: float  # decode step of those running beside the prefill, 0: none
    is_prefill_clean: bool
    is_decode_clean: bool
    is_cache_known: bool  # the prompt's cached part is known, not only guessed to be none
    predicted_prefill_s: float
    predicted_decode_s: float


class RatesState(msgspec.Struct, frozen=True):
    """Learned rates of one runner, natural logarithms, with the number of samples behind each."""

    engine_id: str
    runner: str
    prefill_ln: float
    prefill_count: float
    step_ln: float
    step_count: float
    load_ln: float
    load_count: float


class NodePaceState(msgspec.Struct, frozen=True):
    """Learned figures of one node."""

    node_id: str
    load_rate_ln: float
    load_rate_count: float
    bias_prefill_ln: float
    bias_decode_ln: float
    busy_ln: float
    runners: tuple[RatesState, ...]
    hours: tuple[HourState, ...] = ()


class PredictorState(msgspec.Struct, frozen=True):
    """Everything learned, to be kept over a restart."""

    nodes: tuple[NodePaceState, ...] = ()
    models: tuple[ModelLengthsState, ...] = ()
