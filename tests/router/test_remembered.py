"""What the router remembers of models is bounded."""

from ollama_herd.router.asking import EngineAnswer
from ollama_herd.router.models.blobs import KEPT_PLACES, Places
from ollama_herd.router.models.show import (
    KEPT_ANSWER_BYTES,
    KEPT_ANSWERS,
    KEPT_BYTES,
    ShowCache,
)


def answer(size):
    return EngineAnswer(200, (), b"x" * size)


def test_answers_are_kept_by_name_and_digest():
    cache = ShowCache()
    cache.put(("tiny:latest", "d1"), answer(5), "a")
    assert cache.get(("tiny:latest", "d1")) == (answer(5), "a")
    assert cache.get(("tiny:latest", "d2")) is None
    assert cache.get(("other:latest", "d1")) is None


def test_the_longest_unused_answers_go_first():
    cache = ShowCache()
    for number in range(KEPT_ANSWERS):
        cache.put((f"m{number}", "d"), answer(1), "a")
    assert cache.get(("m0", "d")) is not None
    cache.put(("one more", "d"), answer(1), "a")
    assert cache.get(("m0", "d")) is not None
    assert cache.get(("m1", "d")) is None


def test_bytes_are_bounded():
    cache = ShowCache()
    count = KEPT_BYTES // KEPT_ANSWER_BYTES
    for number in range(count + 3):
        cache.put((f"m{number}", "d"), answer(KEPT_ANSWER_BYTES), "a")
    kept = [number for number in range(count + 3) if cache.get((f"m{number}", "d"))]
    assert kept == list(range(3, count + 3))
    cache.put(("big", "d"), answer(KEPT_ANSWER_BYTES + 1), "a")
    assert cache.get(("big", "d")) is None


def test_a_replaced_answer_is_not_counted_twice():
    cache = ShowCache()
    for _ in range(2 * KEPT_BYTES // KEPT_ANSWER_BYTES):
        cache.put(("same", "d"), answer(KEPT_ANSWER_BYTES), "a")
    cache.put(("other", "d"), answer(1), "a")
    assert cache.get(("same", "d")) is not None


def test_places_are_bounded():
    places = Places()
    for number in range(KEPT_PLACES + 10):
        places.put(f"sha256:{number}", ("node", "engine"))
    assert places.get("sha256:0") is None
    assert places.get(f"sha256:{KEPT_PLACES + 9}") == ("node", "engine")
