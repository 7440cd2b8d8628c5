"""The final object of an answer in the forms engines give every day, decoded into typed fields.

A tenth of the cost of reading any form, which `tail` does. Whatever is not exactly as expected is
left to it: a field of another type, or one that stands elsewhere in another dialect.
"""

import msgspec

from ollama_herd.core.request import Usage

_Absent = msgspec.UnsetType
"""Type of a field that an everyday answer does not have: any value of it fails the decoding."""

_ABSENT = msgspec.UNSET


class _Usage(msgspec.Struct, gc=False):
    """`usage` of OpenAI and Anthropic."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    load_duration: _Absent = _ABSENT
    prompt_eval_count: _Absent = _ABSENT
    prompt_eval_duration: _Absent = _ABSENT
    eval_count: _Absent = _ABSENT
    eval_duration: _Absent = _ABSENT
    cache_n: _Absent = _ABSENT
    prompt_n: _Absent = _ABSENT
    predicted_n: _Absent = _ABSENT
    prompt_ms: _Absent = _ABSENT
    predicted_ms: _Absent = _ABSENT


class _Choice(msgspec.Struct, gc=False):
    finish_reason: str | None = None
    done_reason: _Absent = _ABSENT
    stop_reason: None = None


class _Answer(msgspec.Struct, gc=False):
    """A whole answer that is no stream, or the last line of one of Ollama's."""

    done: bool = False
    done_reason: str = ""
    stop_reason: str | None = None
    load_duration: int | None = None
    prompt_eval_count: int | None = None
    prompt_eval_duration: int | None = None
    eval_count: int | None = None
    eval_duration: int | None = None
    usage: _Usage | None = None
    choices: list[_Choice] = []
    delta: _Absent = _ABSENT
    error: None = None
    timings: _Absent = _ABSENT
    finish_reason: _Absent = _ABSENT
    prompt_tokens: _Absent = _ABSENT
    completion_tokens: _Absent = _ABSENT
    input_tokens: _Absent = _ABSENT
    output_tokens: _Absent = _ABSENT
    cache_read_input_tokens: _Absent = _ABSENT
    cache_n: _Absent = _ABSENT
    prompt_n: _Absent = _ABSENT
    predicted_n: _Absent = _ABSENT
    prompt_ms: _Absent = _ABSENT
    predicted_ms: _Absent = _ABSENT


class End(msgspec.Struct, frozen=True, gc=False):
    """`done` is Ollama's mark of a last line."""

    done: bool
    usage: Usage | None


_decode = msgspec.json.Decoder(_Answer).decode
_NO_USAGE = _Usage()


def read_end(answer: bytes, max_reason_chars: int) -> End | None:
    """What a final object says; None when it is not of a known form. Never raises."""
    try:
        end = _decode(answer)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    reason = end.done_reason or end.stop_reason or ""
    if not reason and end.choices:
        reason = end.choices[0].finish_reason or ""
    reason = reason[:max_reason_chars]
    if end.usage is not None:
        usage = _usage_of_both(end, end.usage, reason)
    elif end.prompt_eval_count or end.eval_count or end.load_duration:
        usage = _usage_of_ollama(end, reason)
    else:
        usage = _usage_of_both(end, _NO_USAGE, reason)
    return End(end.done, usage)


def _usage_of_ollama(end: _Answer, reason: str) -> Usage:
    load, prefill, decode = end.load_duration, end.prompt_eval_duration, end.eval_duration
    return Usage(
        end.prompt_eval_count,
        end.eval_count,
        None if load is None else load / 1e6,
        None if prefill is None else prefill / 1e6,
        None if decode is None else decode / 1e6,
        reason,
    )


def _usage_of_both(end: _Answer, said: _Usage, reason: str) -> Usage | None:
    """Zeros alone are no counts: Ollama sends them with every chunk of /v1/completions."""
    own = (
        end.load_duration,
        end.prompt_eval_count,
        end.prompt_eval_duration,
        end.eval_count,
        end.eval_duration,
    )
    if not any(own) and not any(msgspec.structs.astuple(said)[:5]):
        return Usage(done_reason=reason) if reason else None
    usage = _usage_of_ollama(end, reason)
    prompt, output = usage.prompt_tokens, usage.output_tokens
    if prompt is None:
        prompt = said.prompt_tokens if said.prompt_tokens is not None else said.input_tokens
    if output is None:
        output = said.completion_tokens
        if output is None:
            output = said.output_tokens
    if prompt is not None:
        prompt += said.cache_read_input_tokens or 0
    return msgspec.structs.replace(usage, prompt_tokens=prompt, output_tokens=output)
