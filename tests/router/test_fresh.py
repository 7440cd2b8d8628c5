"""Many dashboards that ask the same at once cost one answer."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from ollama_herd import clock
from ollama_herd.router import fresh
from ollama_herd.router.fresh import KEEP_S, MAX_KEPT, FreshAnswers


def test_fifty_at_once_are_answered_by_one() -> None:
    made: list[int] = []
    everybody = threading.Barrier(50)

    def make() -> bytes:
        made.append(1)
        return b"page"

    answers = FreshAnswers()

    def ask(_: int) -> bytes:
        everybody.wait(10)
        return answers.get(("newest", 7), make)

    with ThreadPoolExecutor(50) as pool:
        assert set(pool.map(ask, range(50))) == {b"page"}
    assert len(made) == 1
    assert answers.get(("newest", 8), lambda: b"news") == b"news"  # something was written since


def test_what_is_old_or_failed_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    now = clock.monotonic_s()
    monkeypatch.setattr(fresh, "monotonic_s", lambda: now)
    answers = FreshAnswers()

    def fail() -> bytes:
        raise ValueError("no database")

    with pytest.raises(ValueError, match="no database"):
        answers.get("q", fail)
    assert answers.get("q", lambda: b"1") == b"1"
    assert answers.get("q", fail) == b"1"
    now += KEEP_S
    assert answers.get("q", lambda: b"2") == b"2"


def test_ever_new_questions_do_not_pile_up() -> None:
    answers = FreshAnswers()
    for number in range(3 * MAX_KEPT):
        assert answers.get(number, lambda: b"x") == b"x"
    assert len(answers._answers) <= MAX_KEPT
