"""Whatever one of two nodes does, every request gets its whole answer, once."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.fault_matrix import MID_STREAM, REFUSE, Form, Rig, cells, rig
from tests.e2e.processes import wait_until
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
    assert cell.is_proof, cell


@pytest.mark.parametrize(("fault", "form"), SLOW_CELLS, ids=name_of)
def test_nothing_is_lost_in_silence(standing: Rig, fault: str, form: Form) -> None:
    cell = standing.run(fault, form, 2)
    assert cell.is_proof, cell
    assert cell.wasted <= 2


@pytest.mark.parametrize("path", ["/api/chat", "/v1/messages"])
def test_nobody_listens_any_more(standing: Rig, path: str) -> None:
    cell = standing.run(REFUSE, Form(path, is_stream=True), REQUESTS)
    assert cell.is_proof, cell


@pytest.mark.parametrize("fault", [Fault.RESET, Fault.BUSY_503, Fault.CUT_MID_STREAM])
def test_nothing_is_lost_side_by_side(standing: Rig, fault: str) -> None:
    cell = standing.run(fault, Form("/v1/chat/completions", is_stream=True), 12, at_once=4)
    assert cell.is_proof, cell


def test_a_hedge_is_told_of(standing: Rig) -> None:
    """Some of several requests at once meet the silent node, and are tried on the other one too."""
    form = Form("/api/chat", is_stream=True)
    asked = "only-for-hedges:latest"
    body = form.body(asked)

    def told() -> list[dict[str, object]]:
        path = f"/dashboard/api/traces?model={asked}"
        listed = standing.herd.call("GET", path).json()["traces"]
        return [one for one in listed if one["hedged"]]

    def again() -> bool:
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda _: standing.timed(form, body)[0], range(4)))
        assert {a.status for a in answers} == {200}
        return bool(told())

    assert standing.timed(form, body)[0].status == 200
    assert not told()
    standing.bad.fail_next(Fault.SILENCE, times=-1)
    try:
        wait_until(again, 20, "a trace of a hedged request")
    finally:
        standing.bad.heal()
    trace = told()[0]
    assert (trace["continued"], trace["tags"]) == (False, [])
    assert int(str(trace["attempt_count"])) > 1
    metrics = standing.herd.call("GET", "/metrics").body.decode()
    assert re.search(rf'herd_hedges_total{{model="{asked}",node="good"}} [1-9]', metrics)


def test_a_dead_node_is_left_alone(standing: Rig) -> None:
    """Three wasted attempts at most, then none until it rests no more."""
    cell = standing.run(Fault.RESET, Form("/api/chat", is_stream=True), 30)
    assert cell.is_proof, cell
    assert 1 <= cell.wasted <= 3


def test_every_fault_has_a_cell() -> None:
    assert {f for f, _ in cells()} >= {*MID_STREAM, *Fault, REFUSE}
