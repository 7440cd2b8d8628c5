"""How long the requests running on a replica are expected to take yet.

Exact for as many as engines run at once. Of more, `ReplicaLoad.sample` stands for all of them, so
that a decision costs the same however many requests are in flight.
"""

from collections.abc import Sequence

from ollama_herd.core.inflight import LATE_SHARE, NodeLoad, ReplicaLoad, Running

LEAST_S = 1e-3
"""Whatever still runs needs some time."""


WITNESSES = 4
"""So many running requests are all asked what one more costs them, where it need not wait for them;
of more every third of the sample: they differ little, and each makes every decision dearer."""


def witnesses(replica: ReplicaLoad) -> list[Running]:
    """Of the replica's sample those that stand for all when no slot has to free."""
    sample = replica.sample
    return sample if len(sample) <= WITNESSES else sample[::3]


def remaining_times(
    replica: ReplicaLoad, now_s: float, sample: list[Running] | None = None
) -> list[float]:
    """Seconds each request of the replica's sample will take yet: all, where few run. `sample` to
    ask some of them only.
    """
    sample = replica.sample if sample is None else sample
    if not sample:
        return []
    node = replica.node
    step_s = replica.rates.step_s * (1 + node.pace.alpha * (len(replica.running) - 1))
    step_s *= len(node.active) * node.pace.slow_decode
    return [remaining_s(run, now_s, step_s, node) for run in sample]


def ends_in_s(replica: ReplicaLoad, held: Sequence[float], ahead: int, now_s: float) -> float:
    """Seconds until `ahead` + 1 of the requests running or reserved there have ended.

    `held` are the predicted finish times (router seconds) of those reserved. Where a sample
    stands for more, each of it counts for several ends, spread evenly over the time before it.
    """
    rests = remaining_times(replica, now_s)
    reserved = [max(at - now_s, 0.0) for at in held]
    weight = replica.sampled_weight()
    if weight == 1.0:
        return max(sorted(rests + reserved)[ahead], LEAST_S)
    ends = sorted([(rest, weight) for rest in rests] + [(rest, 1.0) for rest in reserved])
    missing = ahead + 1.0
    before_s = 0.0
    for end_s, count in ends:
        if count >= missing:
            return max(before_s + (end_s - before_s) * missing / count, LEAST_S)
        missing -= count
        before_s = end_s
    return max(before_s, LEAST_S)


def remaining_s(run: Running, now_s: float, step_s: float, node: NodeLoad) -> float:
    """Of one request, where a token takes `step_s`."""
    request, began_s = run.request, run.first_byte_s
    if began_s < 0:
        late_s = now_s - run.first_due_s
        if late_s < 0:
            return run.output * step_s - late_s
        if request.stream or not run.output:
            return run.output * step_s + max(late_s * LATE_SHARE, LEAST_S)
        began_s = run.first_due_s  # the whole answer comes at once: it is decoding by now
    streamed = (now_s - began_s) / step_s
    if request.work:
        return max(request.work - streamed, 0.0) * step_s + LEAST_S
    rest_s = step_s * node.lengths.residual_tokens(request.model_key, streamed, request.max_tokens)
    return rest_s if rest_s > LEAST_S else LEAST_S  # noqa: FURB136 - twice as fast as max()
