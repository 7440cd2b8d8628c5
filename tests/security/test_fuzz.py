"""Any bytes in any pieces: the data plane answers, refuses or closes, and serves on.

`make fuzz` does more of it (HERD_TEST_FUZZ is how many runs of up to 30 steps).
"""

import contextlib
import json
import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.fakes.raw import Client
from tests.security.conftest import CHAT, Target

RUNS = int(os.environ.get("HERD_TEST_FUZZ", "10"))

BODY = json.dumps(CHAT).encode()
HEAD = b"POST /api/chat HTTP/1.1\r\nHost: herd\r\nContent-Length: %d\r\n\r\n"
WHOLE = HEAD % len(BODY) + BODY
PIECES = (
    b"POST /api/chat HTTP/1.1\r\nHost: herd\r\n",
    b"GET /api/tags HTTP/1.1\r\nHost: herd\r\n\r\n",
    b"Host: herd\r\n",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: close\r\n",
    b"Expect: 100-continue\r\n",
    b"Upgrade: websocket\r\n",
    b"\r\n",
    b"0\r\n\r\n",
    b"5\r\nhello\r\n",
    b"\x00",
    b"\xff\xfe",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    WHOLE,
    BODY,
)


class Wire(RuleBasedStateMachine):
    """A few connections at once, each with what was sent on it."""

    target: Target

    def __init__(self) -> None:
        super().__init__()
        self.clients: list[Client] = []

    def teardown(self) -> None:
        for client in self.clients:
            client.close()

    @precondition(lambda self: len(self.clients) < 4)
    @rule()
    def connect(self) -> None:
        self.clients.append(Client(self.target.herd.port, timeout_s=5))

    @precondition(lambda self: self.clients)
    @rule(data=st.data(), piece=st.sampled_from(PIECES) | st.binary(max_size=300))
    def send(self, data: st.DataObject, piece: bytes) -> None:
        client = data.draw(st.sampled_from(self.clients))
        with contextlib.suppress(OSError):
            client.send(piece)

    @precondition(lambda self: self.clients)
    @rule(data=st.data(), at=st.integers(0, len(WHOLE)), change=st.binary(min_size=1, max_size=3))
    def send_changed(self, data: st.DataObject, at: int, change: bytes) -> None:
        client = data.draw(st.sampled_from(self.clients))
        with contextlib.suppress(OSError):
            client.send(WHOLE[:at] + change + WHOLE[at + len(change) :])

    @precondition(lambda self: self.clients)
    @rule(data=st.data(), is_rude=st.booleans())
    def leave(self, data: st.DataObject, is_rude: bool) -> None:  # noqa: FBT001 - Hypothesis names it
        client = data.draw(st.sampled_from(self.clients))
        self.clients.remove(client)
        if is_rude:
            client.reset()
        else:
            client.close()

    @rule()
    def ask_in_two_pieces(self) -> None:
        """An honest request beside all that is answered."""
        with Client(self.target.herd.port, timeout_s=10) as client:
            client.send(WHOLE[:40])
            client.send(WHOLE[40:] + WHOLE)
            assert [client.read().status, client.read().status] == [200, 200]

    @invariant()
    def it_lives(self) -> None:
        assert self.target.herd.popen.poll() is None


@pytest.fixture
def quiet(target: Target) -> Iterator[Target]:
    yield target
    assert target.is_well()
    assert target.herd.rss_bytes() < 300 * 2**20
    assert "Traceback" not in target.herd.log()


@pytest.mark.timeout(120 + 6 * RUNS)
def test_any_bytes_in_any_pieces(quiet: Target) -> None:
    machine = type("Running", (Wire,), {"target": quiet})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=RUNS,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
