"""The slot mirror repeats the engine's own choice of slot."""

from hypothesis import given
from hypothesis import strategies as st

from ollama_herd.core.prefix import (
    BLOCK_BYTES,
    MAX_BLOCKS,
    Continuation,
    SlotMirror,
    block_chain,
    common_blocks,
)

BLOCKS = st.lists(st.integers(0, 2), max_size=40)


def chain(blocks):
    """Hashes chained over all blocks before, as the wire layer makes them."""
    hashes, last = [], 0
    for block in blocks:
        last = hash((last, block))
        hashes.append(last)
    return tuple(hashes)


@given(BLOCKS, BLOCKS)
def test_common_blocks_counts_from_the_start(left, right):
    expected = 0
    for one, other in zip(left, right, strict=False):
        if one != other:
            break
        expected += 1
    assert common_blocks(chain(left), chain(right)) == expected


@given(st.binary(max_size=64), st.integers(0, 9), st.integers(0, 9), st.binary(max_size=64))
def test_texts_share_the_blocks_they_start_with(text, shared, more, end):
    start = (text + b"x" * BLOCK_BYTES)[:BLOCK_BYTES] * shared
    one = block_chain(start + b"1" * BLOCK_BYTES * more + end)
    other = block_chain(memoryview(start + b"2" * BLOCK_BYTES * more))
    assert len(one) == shared + more
    assert common_blocks(one, other) == shared


def test_only_so_many_blocks_are_hashed():
    assert len(block_chain(bytes(BLOCK_BYTES * (MAX_BLOCKS + 5)))) == MAX_BLOCKS


steps = st.lists(st.tuples(BLOCKS, st.booleans(), st.booleans(), st.integers(1, 4)), max_size=40)


@given(steps)
def test_a_slot_serves_one_request_and_their_number_is_bounded(history):
    mirror, busy = SlotMirror(), []
    for number, (blocks, finishes, kept, count) in enumerate(history):
        if (finishes or len(busy) >= count) and busy:
            mirror.release(busy.pop(0), count, float(number), kept=kept)
        if len(busy) < count:
            mirror.take(chain(blocks), count, f"r{number}", float(number))
            busy.append(f"r{number}")
        taken = sorted(slot.request_id for slot in mirror.slots if slot.request_id)
        assert taken == sorted(busy)
        assert len(mirror.slots) <= 4


def test_the_longest_match_wins_then_the_least_recently_used():
    mirror = SlotMirror()
    mirror.take(chain([1, 2, 3]), 2, "a", 1.0)
    mirror.take(chain([1, 5]), 2, "b", 2.0)
    for name, now_s in (("a", 3.0), ("b", 4.0)):
        mirror.release(name, 2, now_s, kept=True)
    slot, common = mirror.find(chain([1, 2, 3, 4]), 2)
    assert (slot.chain, common) == (chain([1, 2, 3]), 3)
    slot, common = mirror.find(chain([7, 7]), 2)
    assert (slot.chain, common) == (chain([1, 2, 3]), 0)  # used longest ago


def test_a_match_of_a_tenth_is_none():
    mirror = SlotMirror()
    mirror.take(chain([1, 2]), 1, "a", 1.0)
    mirror.release("a", 1, 2.0, kept=True)
    assert mirror.find(chain([1, *range(3, 40)]), 1)[1] == 0
    assert mirror.find(chain([1, 9, 9]), 1)[1] == 1


def test_an_empty_slot_is_taken_before_a_conversation_is_lost():
    mirror = SlotMirror()
    mirror.take(chain([1, 2]), 2, "a", 1.0)
    mirror.release("a", 2, 2.0, kept=True)
    assert mirror.find(chain([8]), 2) == (None, 0)


def test_unloading_and_failing_forget():
    mirror = SlotMirror()
    mirror.take(chain([1, 2]), 1, "a", 1.0)
    mirror.release("a", 1, 2.0, kept=False)
    assert mirror.find(chain([1, 2]), 1)[1] == 0
    mirror.take(chain([1, 2]), 1, "b", 3.0)
    mirror.release("b", 1, 4.0, kept=True)
    mirror.clear()
    assert mirror.find(chain([1, 2]), 1)[1] == 0


@given(st.lists(st.tuples(BLOCKS, st.floats(0, 1000)), max_size=30), st.floats(0, 1e6))
def test_the_chance_to_come_back_is_one(history, idle_s):
    known = Continuation()
    now_s = 0.0
    for blocks, pause_s in history:
        now_s += pause_s
        known.arrived(chain(blocks), now_s)
    assert 0 <= known.chance(idle_s) <= 1
    assert known.chance(idle_s) <= known.chance(0.0) + 1e-9


def test_conversations_make_coming_back_likely_until_they_fall_silent():
    known = Continuation()
    for talk in range(20):
        for turn in range(1, 6):
            known.arrived(chain([talk + 10, *range(turn)]), talk * 1000 + turn * 30.0)
    assert known.chance(5.0) > 0.6
    assert known.chance(500.0) < 0.05
    strangers = Continuation()
    for talk in range(100):
        strangers.arrived(chain([talk + 10]), talk * 10.0)
    assert strangers.chance(5.0) < 0.2
