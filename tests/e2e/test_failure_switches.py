"""The switches of failure handling: a stream that breaks is told of, and silence is waited for."""

from collections.abc import Iterator

import pytest

from tests.e2e.fault_matrix import Form, Rig, rig
from tests.fakes.raw import Client
from tests.fakes.state import Fault


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    switches = {"HERD_CONTINUE_STREAMS": "false", "HERD_HEDGE": "false"}
    with rig(tmp_path_factory.mktemp("switches"), switches) as herd:
        yield herd
        herd.herd.wait_status(lambda s: s["queue"]["in_flight"] == 0, "nothing to be in flight")
        assert "Traceback" not in herd.herd.log()


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions", "/v1/messages"])
@pytest.mark.parametrize("fault", [Fault.CUT_MID_STREAM, Fault.CLEAN_END])
def test_streams_are_not_continued(plain: Rig, fault: Fault, path: str) -> None:
    """But each that broke says so, and a single answer is had elsewhere all the same."""
    streamed = plain.run(fault, Form(path, is_stream=True), 4)
    assert streamed.met == streamed.told > 0
    assert streamed.completed == 4 - streamed.told
    assert plain.run(fault, Form(path, is_stream=False), 4).is_proof


def test_silence_is_waited_for(plain: Rig) -> None:
    form = Form("/api/chat", is_stream=True)
    body = form.body("only-for-hedges")
    plain.prefer_the_bad(form, body)
    asked = plain.good.counters.received
    plain.bad.fail_next(Fault.SILENCE)
    with Client(plain.herd.port, timeout_s=2.5) as client:  # beyond the ceiling of a hedge
        client.ask("POST", form.path, body)
        with pytest.raises(TimeoutError):
            client.read_head()
    assert plain.good.counters.received == asked
