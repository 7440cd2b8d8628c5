"""What a runner's slots hold: a mirror of the KV caches, kept from what was sent there.

Engines do not report cache hits (Ollama's `prompt_eval_count` includes cached tokens), so the
router repeats the engine's own rule: a request takes the free slot with the longest common
prefix if that is over a tenth of the prompt, else the least recently used one.
"""

from bisect import bisect_right
from collections import deque
from math import exp

BLOCK_TOKENS = 256
"""Prompt tokens behind one hash of a request's `prefix`."""

BLOCK_BYTES = 4 * BLOCK_TOKENS
"""At about four characters a token, as prompts are estimated."""

MAX_BLOCKS = 1024
"""A quarter of a million tokens; what is behind does not move a decision any more."""

MIRRORED_SLOTS = 64
"""Engines with more keep no prompt in a slot of its own; and each is looked at in each decision."""

MIN_MATCH_SHARE = 0.1
"""llama-server's `slot-prompt-similarity` default."""

MIN_LOST_TOKENS = 128.0
"""Recomputing less than this is not worth counting (routing study)."""

FORGETTING = 0.99
CONTINUED_PRIOR = 0.2
GAPS_KEPT = 100
DEFAULT_GAP_S = 60.0
"""Chance and mean pause of a conversation's next turn before any was seen (routing study)."""

KNOWN_PROMPTS = 512


def common_blocks(left: tuple[int, ...], right: tuple[int, ...]) -> int:
    """Blocks shared from the start. Hashes are chained, so equality at k means equality before."""
    low, high = 0, min(len(left), len(right))
    while low < high:
        middle = (low + high + 1) // 2
        if left[middle - 1] == right[middle - 1]:
            low = middle
        else:
            high = middle - 1
    return low


def block_chain(text: bytes | memoryview) -> tuple[int, ...]:
    """Hashes of a prompt's whole blocks, each chained over all before it, for a request's `prefix`.

    `text` is the prompt as it stands in the body, for a chat the raw `messages` member: the next
    turn starts with the same bytes. Good within this process only.
    """
    chain = []
    last = 0
    end = min(len(text), MAX_BLOCKS * BLOCK_BYTES)
    for start in range(0, end - BLOCK_BYTES + 1, BLOCK_BYTES):
        last = hash((last, bytes(text[start : start + BLOCK_BYTES])))
        chain.append(last)
    return tuple(chain)


class Slot:
    """One slot of a runner: the prompt it holds, since when it is idle, who uses it."""

    __slots__ = ("chain", "request_id", "used_s")

    def __init__(self) -> None:
        self.chain: tuple[int, ...] = ()
        self.used_s = float("-inf")
        self.request_id = ""


class SlotMirror:
    """The slots of one runner. Grows to the number of slots, shrinks when that does."""

    __slots__ = ("slots",)

    def __init__(self) -> None:
        self.slots: list[Slot] = []

    def find(self, chain: tuple[int, ...], count: int) -> tuple[Slot | None, int]:
        """The held slot a request would take (None: an empty one) and the blocks it finds there."""
        best: Slot | None = None
        best_common = 0
        oldest: Slot | None = None
        for slot in self.slots:
            if slot.request_id:
                continue
            if chain and slot.chain and chain[0] == slot.chain[0]:
                common = common_blocks(chain, slot.chain)
                if common > best_common:
                    best, best_common = slot, common
            if oldest is None or slot.used_s < oldest.used_s:
                oldest = slot
        if best is not None and best_common > MIN_MATCH_SHARE * len(chain):
            return best, best_common
        return (None if len(self.slots) < min(count, MIRRORED_SLOTS) else oldest), 0

    def take(self, chain: tuple[int, ...], count: int, request_id: str, now_s: float) -> int:
        """The request starts in the slot it would take; the blocks it finds there."""
        slot, common = self.find(chain, count)
        if slot is None:
            if len(self.slots) >= MIRRORED_SLOTS:
                return 0
            slot = Slot()
            self.slots.append(slot)
        slot.chain = chain
        slot.request_id = request_id
        slot.used_s = now_s
        return common

    def release(self, request_id: str, count: int, now_s: float, *, kept: bool) -> None:
        """The request ended; `kept` says whether its prompt can be believed to be in the slot."""
        for slot in self.slots:
            if slot.request_id == request_id:
                slot.request_id = ""
                slot.used_s = now_s
                if not kept:
                    slot.chain = ()
                break
        while len(self.slots) > count:
            free = [slot for slot in self.slots if not slot.request_id]
            if not free:
                break
            self.slots.remove(min(free, key=lambda slot: slot.used_s))

    def clear(self) -> None:
        """The runner was unloaded, reloaded or lost."""
        for slot in self.slots:
            slot.chain = ()


class Continuation:
    """How often, and after what pause, a prompt of this model is extended by a later one."""

    __slots__ = ("_count", "_extended", "_gaps", "_known", "_ordered")

    def __init__(self) -> None:
        self._extended = CONTINUED_PRIOR
        self._count = 1.0
        self._gaps: deque[float] = deque(maxlen=GAPS_KEPT)
        self._ordered: list[float] | None = None
        self._known: dict[int, float] = {}  # last hash of a prompt -> when it was asked

    def arrived(self, chain: tuple[int, ...], now_s: float) -> None:
        """A prompt came in; find out whether it extends an earlier one."""
        if not chain:
            return
        before = None
        for block in reversed(chain):
            before = self._known.pop(block, None)
            if before is not None:
                break
        self._extended = FORGETTING * self._extended + (before is not None)
        self._count = FORGETTING * self._count + 1
        if before is not None:
            self._gaps.append(max(0.0, now_s - before))
            self._ordered = None
        self._known[chain[-1]] = now_s
        if len(self._known) > KNOWN_PROMPTS:
            del self._known[next(iter(self._known))]

    def chance(self, idle_s: float) -> float:
        """Probability that a conversation silent for `idle_s` still comes back."""
        share = min(self._extended / self._count, 0.99)
        if self._gaps:
            if self._ordered is None:
                self._ordered = sorted(self._gaps)
            longer = len(self._ordered) - bisect_right(self._ordered, idle_s)
            survives = longer / len(self._ordered)
        else:
            survives = exp(-max(0.0, idle_s) / DEFAULT_GAP_S)
        weight = share * survives
        return weight / (weight + 1 - share)
