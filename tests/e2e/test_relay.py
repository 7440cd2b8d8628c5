"""An engine the router cannot reach itself: through the agent's relay, as fast as directly.

The engine listens on 127.0.0.2 only, which a router that sees the node at 127.0.0.1 never dials.
"""

import itertools
import socket
import statistics
from collections.abc import Iterator

import pytest

from ollama_herd import clock
from tests.e2e.processes import Herd, Node
from tests.e2e.test_cancellation import ALLOWED_S
from tests.fakes.models import model
from tests.fakes.ollama import FakeOllama
from tests.fakes.raw import Client, call
from tests.fakes.state import Fault, Settings
from tests.pace import in_time

ELSEWHERE = "127.0.0.2"
ASK = {"model": "far", "prompt": "Say hi"}


def _has_second_loopback() -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((ELSEWHERE, 0))
        except OSError:
            return False
        return True


pytestmark = pytest.mark.skipif(
    not _has_second_loopback(), reason=f"this platform has no {ELSEWHERE} without configuring it"
)


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Herd, FakeOllama]]:
    folder = tmp_path_factory.mktemp("relay")
    settings = Settings(is_frozen=True, num_parallel=8)
    with (
        FakeOllama([model("far")], settings, host=ELSEWHERE).in_thread() as engine,
        Herd(folder).ready() as herd,
        Node(
            folder,
            "far",
            f"http://127.0.0.1:{herd.port}",
            [engine.url],
            env={"HERD_NODE_SLOTS": "8"},
        ),
    ):
        herd.wait_models("far:latest")
        yield herd, engine


@pytest.fixture
def relayed(far: tuple[Herd, FakeOllama]) -> tuple[Herd, FakeOllama]:
    far[1].reset(Settings(is_frozen=True, num_parallel=8))
    return far


def test_the_way_is_the_relay(relayed: tuple[Herd, FakeOllama]) -> None:
    node = relayed[0].node("far")
    assert node is not None
    assert [engine["path"] for engine in node["engines"]] == ["relay"]


@pytest.mark.parametrize("stream", [True, False])
def test_same_bytes_as_directly(relayed: tuple[Herd, FakeOllama], *, stream: bool) -> None:
    herd, engine = relayed
    body = {**ASK, "stream": stream, "options": {"num_predict": 500}}
    with Client(engine.port, ELSEWHERE) as client:
        client.ask("POST", "/api/generate", body)
        direct = client.read()
    answer = herd.call("POST", "/api/generate", body)
    assert (answer.status, answer.body) == (direct.status, direct.body)
    assert answer.framing == direct.framing


def test_large_body_arrives_whole(relayed: tuple[Herd, FakeOllama]) -> None:
    herd, engine = relayed
    body = {**ASK, "stream": False, "images": ["A" * 8_000_000]}
    assert herd.call("POST", "/api/generate", body, timeout_s=60).status == 200
    seen = [request for request in engine.state.requests if request[1] == "/api/generate"]
    assert len(seen[-1][3]) > 8_000_000


def test_tokens_come_one_by_one(relayed: tuple[Herd, FakeOllama]) -> None:
    """Of an answer without end: what waits for more than the next token never comes."""
    herd, engine = relayed
    engine.settings.token_ms = 20
    with Client(herd.port) as client:
        client.ask("POST", "/api/generate", {**ASK, "options": {"num_predict": -1}})
        answer = client.begin()
        for _ in itertools.islice(client.body(answer), 20):
            pass
    gaps = [b - a for a, b in itertools.pairwise(answer.arrivals)]
    assert in_time(statistics.median(gaps), 0.1)


@pytest.mark.parametrize("when", ["streaming", "silent"])
def test_leaving_reaches_the_engine(relayed: tuple[Herd, FakeOllama], when: str) -> None:
    herd, engine = relayed
    engine.settings.token_ms = 5
    if when == "silent":
        engine.fail_next(Fault.SILENCE)
    client = Client(herd.port)
    client.ask("POST", "/api/generate", {**ASK, "options": {"num_predict": -1}})
    engine.wait_for(lambda c: c.tokens > 3 if when == "streaming" else c.received == 1)
    left_s = clock.monotonic_s()
    client.close()
    engine.wait_for(lambda c: c.cancelled == 1, 5, "the engine to see the client gone")
    took_s = engine.counters.last_cancelled_s - left_s
    print(f"engine saw it after {took_s * 1000:.1f} ms")  # noqa: T201 (pytest shows it)
    assert in_time(took_s, ALLOWED_S)


def test_cut_stream_is_told(relayed: tuple[Herd, FakeOllama]) -> None:
    herd, engine = relayed
    engine.fail_next(Fault.CUT_MID_STREAM)
    answer = herd.call("POST", "/api/generate", ASK)
    assert answer.is_whole
    assert answer.lines()[-1]["error"]


def test_first_byte_is_not_held_up(relayed: tuple[Herd, FakeOllama]) -> None:
    herd, _ = relayed
    with Client(herd.port) as client:
        firsts = []
        for _ in range(20):
            client.ask("POST", "/api/generate", ASK)
            firsts.append(client.read().arrivals[0])
    assert in_time(sorted(firsts)[10], 0.03)


def test_relay_wants_its_key(relayed: tuple[Herd, FakeOllama]) -> None:
    node = relayed[0].node("far")
    assert node is not None
    port = int(node["engines"][0]["address"].rpartition(":")[2])
    engine_id = node["engines"][0]["engine_id"]
    for authorization, status in (("Bearer wrong", 401), ("", 401)):
        headers = {"Authorization": authorization} if authorization else {}
        answer = call(port, "CONNECT", engine_id, headers=headers)
        assert answer.status == status
        assert answer.body
