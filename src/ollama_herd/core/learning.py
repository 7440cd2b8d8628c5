"""From a finished request to a lesson: what its times say, and how far they can be trusted."""

from ollama_herd.core.inflight import Running
from ollama_herd.core.learned import Service
from ollama_herd.core.load import Load
from ollama_herd.core.request import Kind, Usage

UNCLEAN_SHARE = 0.1
"""A decode disturbed for a smaller part of its time still counts as undisturbed."""

CONTEXT_FULL_SHARE = 0.9
"""Ollama cuts prompts that exceed the context silently; their count says nothing."""

EAGER_LESSONS = 32
LESSON_PAUSE_S = 0.05
"""After its first lessons a replica gives at most 20 a second: a thousand tiny answers say no
more than twenty, and learning costs more than deciding.
"""

NOTHING = Usage()


def learn(load: Load, run: Running, usage: Usage | None, now_s: float) -> None:
    """Teach the predictor a completed request. Call after `Load.end`."""
    request = run.request
    rates = run.replica.rates
    if rates.lessons >= EAGER_LESSONS and now_s - rates.taught_s < LESSON_PAUSE_S:
        return
    rates.lessons += 1
    rates.taught_s = now_s
    said = usage or NOTHING
    predictor = load.predictor
    lengths = predictor.lengths
    output = float(said.output_tokens or 0)
    if request.work:
        output = float(request.work)
    elif output > 0:
        lengths.learn_output(request, output)
    prompt, cached = run.prompt, run.cached
    if said.prompt_tokens:
        context = run.replica.context_length
        if not context or said.prompt_tokens < CONTEXT_FULL_SHARE * context:
            lengths.learn_prompt(request, said.prompt_tokens)
        cached *= said.prompt_tokens / max(prompt, 1.0)  # a prompt may look empty
        prompt = float(said.prompt_tokens)
    pace = run.node.pace
    decode_s, progress_s, is_clean = _decode(run, said, now_s)
    seen = Service(
        prompt_tokens=prompt,
        cached_tokens=min(cached, prompt),
        output_tokens=output,
        prefill_s=_prefill_s(run, said, now_s),
        decode_s=decode_s,
        progress_s=progress_s,
        load_s=_load_s(run, said),
        stall_tokens_s=run.stall_s,
        is_prefill_clean=run.is_prefill_clean and (request.stream or run.is_alone),
        is_decode_clean=is_clean,
        is_cache_known=run.is_cache_known,
        predicted_prefill_s=run.prefill_s,
        predicted_decode_s=run.step_s * output,
    )
    predictor.learn(pace, rates, seen, now_s)


def _load_s(run: Running, said: Usage) -> float | None:
    """A load that stood in a line behind others would teach a slow disk."""
    if said.load_ms is None or not (run.is_cold or run.is_alone):
        return None
    return said.load_ms / 1e3


def _prefill_s(run: Running, said: Usage, now_s: float) -> float | None:
    if said.prefill_ms is not None:
        return said.prefill_ms / 1e3
    if run.is_cold:
        return None
    if run.request.kind is Kind.EMBED:
        return now_s - run.dispatched_s
    if run.request.stream and run.first_byte_s >= 0:
        return run.first_byte_s - run.dispatched_s
    return None


def _decode(run: Running, said: Usage, now_s: float) -> tuple[float | None, float | None, bool]:
    """(decode seconds, those seconds as if undisturbed, whether they really were)."""
    began_s = run.dispatched_s
    if run.request.stream and run.first_byte_s >= 0:
        began_s = run.first_byte_s
    passed_s = now_s - began_s
    if passed_s <= 0:
        return None, None, False
    if said.decode_ms is not None:
        decode_s = said.decode_ms / 1e3
    elif run.request.stream or run.request.work:
        decode_s = passed_s
    else:
        return None, None, False
    if run.is_alone:
        return decode_s, decode_s, True
    progress_s = (run.replica.progress_s - run.progress_s) * decode_s / passed_s
    is_clean = run.request.stream and run.node.dirty_s - run.dirty_s <= UNCLEAN_SHARE * passed_s
    return decode_s, progress_s, is_clean
