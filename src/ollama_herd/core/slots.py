"""How many requests an engine that does not tell its slots takes at once: learned by use."""

from ollama_herd.core.inflight import PROBE_PAUSE_S, Running

SLOTS_MAX = 64
"""More than any engine's default; learned slots stop here."""


def learn(ended: Running, now_s: float, *, answered: bool) -> None:
    """What the end of a request says of its replica's slots."""
    if answered:
        _count(ended)
    _judge_probes(ended, now_s)


def _count(ended: Running) -> None:
    """An engine with one slot answers in order: a request's first byte while one sent before
    it still runs shows another slot. Seen twice, it counts. Refusals come at once and show
    nothing, so only completed answers are asked.
    """
    replica = ended.replica
    if ended.overlapped < replica.learned_slots or ended.request.is_load_only:
        return
    replica.overlaps += 1
    if replica.overlaps >= 2:
        replica.overlaps = 0
        replica.probe_pause_s = PROBE_PAUSE_S
        replica.learned_slots = min(replica.learned_slots + 1, SLOTS_MAX)
        replica.set_slots()


def _judge_probes(ended: Running, now_s: float) -> None:
    """A probe that had time for its first byte, and got none until another ended, found no slot."""
    if ended.is_probe:
        return
    replica = ended.replica
    for other in replica.running.values():
        if other.is_probe and other.first_byte_s < 0:
            other.is_probe = False
            if now_s - other.dispatched_s > 1.5 * other.prefill_s:
                replica.probed_in_vain(now_s)
