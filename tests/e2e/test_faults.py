"""Whatever one of two nodes does, every request gets its whole answer, once."""

from collections.abc import Iterator

import pytest

from tests.e2e.fault_matrix import MID_STREAM, REFUSE, Form, Rig, cells, rig
from tests.fakes.state import Fault

SLOW = frozenset({Fault.SILENCE, Fault.STALL_MID_STREAM})
REQUESTS = 4
CELLS = [(f, form) for f, form in cells() if f not in SLOW and f != REFUSE]
SLOW_CELLS = [(f, form) for f, form in cells() if f in SLOW]


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with rig(tmp_path_factory.mktemp("faults")) as herd:
        yield herd
        herd.herd.check_alive()
        herd.herd.wait_status(lambda s: s["queue"]["in_flight"] == 0, "nothing to be in flight")
        assert "Traceback" not in herd.herd.log()


def name_of(value: object) -> str:
    return value.name.replace(" ", "-") if isinstance(value, Form) else str(value)


@pytest.mark.parametrize(("fault", "form"), CELLS, ids=name_of)
def test_nothing_is_lost(standing: Rig, fault: str, form: Form) -> None:
    cell = standing.run(fault, form, REQUESTS)
    assert cell.completed == REQUESTS, cell.seen
    assert not cell.wrong_counts, cell.seen
    assert cell.wasted <= 3


@pytest.mark.parametrize(("fault", "form"), SLOW_CELLS, ids=name_of)
def test_nothing_is_lost_in_silence(standing: Rig, fault: str, form: Form) -> None:
    cell = standing.run(fault, form, 2)
    assert cell.completed == 2, cell.seen
    assert not cell.wrong_counts, cell.seen
    assert cell.wasted <= 2


@pytest.mark.parametrize("path", ["/api/chat", "/v1/messages"])
def test_nobody_listens_any_more(standing: Rig, path: str) -> None:
    cell = standing.run(REFUSE, Form(path, is_stream=True), REQUESTS)
    assert cell.completed == REQUESTS, cell.seen


def test_a_hedge_is_told_of(standing: Rig) -> None:
    form = Form("/api/chat", is_stream=True)
    standing.run(Fault.ERROR_500, form, 1)
    standing.bad.fail_next(Fault.SILENCE, times=-1)
    body = form.body("m0")
    answers = [standing.herd.call("POST", form.path, body) for _ in range(3)]
    standing.bad.heal()
    assert {a.header("x-herd-node") for a in answers} == {"good"}
    assert {a.header("x-herd-attempts") for a in answers} <= {"1", "2"}


def test_a_dead_node_is_left_alone(standing: Rig) -> None:
    """Three wasted attempts at most, then none until it rests no more."""
    cell = standing.run(Fault.RESET, Form("/api/chat", is_stream=True), 30)
    assert cell.completed == 30, cell.seen
    assert cell.wasted <= 3


def test_every_fault_has_a_cell() -> None:
    assert {f for f, _ in cells()} >= {*MID_STREAM, *Fault, REFUSE}
