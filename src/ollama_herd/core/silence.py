"""When the silence of an engine is suspicious. Pure: expectations in, seconds of patience out."""

import msgspec

LATE_FACTOR = 3.0
"""A first byte is suspiciously late at three times its prediction: predictions of a learned
replica are within a factor of two nearly always, those made from priors within three."""

UNBOUNDED_ANSWER = 4.0
"""Without a bound from the client an answer may be this much longer than the expected one."""

STALL_FACTOR = 50.0
"""Gaps between two tokens in a stream; a model swap or a long prompt of a neighbour can take the
time of dozens of tokens, so this stays well above."""

BUFFERED_FACTOR = 5.0
"""With tools an Ollama holds a call back until it is whole: thousands of tokens of silence."""


class SilenceLimits(msgspec.Struct, frozen=True):
    """Bounds in seconds on the patience with silence before the first byte and in a stream.

    `hedge` False: the first byte is waited for without bound.
    """

    hedge: bool = True
    hedge_floor_s: float = 10.0
    hedge_ceiling_s: float = 120.0
    stall_floor_s: float = 20.0
    stall_ceiling_s: float = 120.0


class Expectation(msgspec.Struct, frozen=True):
    """What was predicted of an attempt when it was sent, in seconds and tokens.

    `hangs`: its runner has been found silent since, by another request or a canary.
    """

    first_byte_s: float
    step_s: float = 0.0  # a token
    output_tokens: float = 0.0
    max_tokens: int | None = None
    hangs: bool = False


def first_byte_patience_s(limits: SilenceLimits, expected: Expectation, *, is_whole: bool) -> float:
    """How long to wait for a first byte before another node is asked as well.

    `is_whole`: the engine sends nothing until the answer is complete, so all of its tokens come
    before the first byte; the ceiling bounds the rest only. No time is given for them to a runner
    that hangs.
    """
    late_s = LATE_FACTOR * max(0.0, expected.first_byte_s)
    patience_s = min(max(late_s, limits.hedge_floor_s), limits.hedge_ceiling_s)
    if not is_whole or expected.hangs:
        return patience_s
    tokens = UNBOUNDED_ANSWER * max(0.0, expected.output_tokens)
    if expected.max_tokens is not None:
        tokens = min(tokens, float(expected.max_tokens)) if tokens else float(expected.max_tokens)
    return patience_s + LATE_FACTOR * tokens * max(0.0, expected.step_s)


def stall_patience_s(
    limits: SilenceLimits, pieces: int, elapsed_s: float, *, is_buffered: bool = False
) -> float:
    """How long a stream may be silent that brought `pieces` in `elapsed_s`.

    `is_buffered`: the engine holds pieces back (tool calls).
    """
    gap_s = max(0.0, elapsed_s) / max(1, pieces)
    patience_s = min(max(STALL_FACTOR * gap_s, limits.stall_floor_s), limits.stall_ceiling_s)
    return BUFFERED_FACTOR * limits.stall_ceiling_s if is_buffered else patience_s
