"""`HERD_DATA_PLANE=aiohttp`: the slower plane gives the same answers and cancels as well."""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from ollama_herd import clock
from tests.e2e.processes import Herd, Node
from tests.e2e.test_answers import REQUESTS
from tests.e2e.test_cancellation import ALLOWED_S
from tests.fakes.models import embedding_model, model, recorded_models
from tests.fakes.ollama import FakeOllama
from tests.fakes.raw import Client, call
from tests.fakes.state import Fault, Scripted, Settings
from tests.pace import in_time

ASK = {"model": "only", "prompt": "Say hi"}


@dataclass
class Plain:
    """A router without its own data plane, and one node."""

    herd: Herd
    engine: FakeOllama


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plain]:
    folder = tmp_path_factory.mktemp("aiohttp")
    models = [*recorded_models(), embedding_model("nomic-embed-text"), model("only")]
    with (
        FakeOllama(models, Settings(is_frozen=True, num_parallel=4)).in_thread() as engine,
        Herd(folder, env={"HERD_DATA_PLANE": "aiohttp"}).ready() as herd,
        Node(
            folder,
            "n",
            f"http://127.0.0.1:{herd.port}",
            [engine.url],
            env={"HERD_NODE_SLOTS": "4"},
        ),
    ):
        herd.wait_models("only:latest", "tiny:latest")
        yield Plain(herd, engine)


@pytest.fixture
def plain(standing: Plain) -> Iterator[Plain]:
    standing.engine.reset(Settings(is_frozen=True, num_parallel=4))
    yield standing
    standing.engine.wait_for(lambda c: c.in_flight == 0)


@pytest.mark.parametrize(("path", "body"), REQUESTS.values(), ids=REQUESTS.keys())
def test_passes_unmodified(plain: Plain, path: str, body: dict[str, object]) -> None:
    direct = call(plain.engine.port, "POST", path, body)
    herded = plain.herd.call("POST", path, body)
    assert (herded.status, herded.body) == (direct.status, direct.body)
    assert herded.is_whole
    assert herded.header("content-type") == direct.header("content-type")
    assert herded.header("x-herd-node") == "n"


@pytest.mark.parametrize("stream", [True, False])
def test_leaving_reaches_the_engine(plain: Plain, *, stream: bool) -> None:
    engine = plain.engine
    engine.settings.token_ms = 5
    client = Client(plain.herd.port)
    body = {**ASK, "stream": stream, "options": {"num_predict": -1}}
    client.ask("POST", "/api/generate", body)
    engine.wait_for(lambda c: c.tokens >= 3)
    left_s = clock.monotonic_s()
    client.close()
    engine.wait_for(lambda c: c.cancelled == 1, 5, "the engine to see the client gone")
    assert in_time(engine.counters.last_cancelled_s - left_s, ALLOWED_S)


def test_tokens_come_one_by_one(plain: Plain) -> None:
    plain.engine.settings.token_ms = 20
    answer = plain.herd.call("POST", "/api/generate", {**ASK, "options": {"num_predict": 20}})
    gaps = [b - a for a, b in zip(answer.arrivals, answer.arrivals[1:], strict=False)]
    assert len(answer.chunks) >= 8  # a busy machine brings some together
    assert in_time(statistics.median(gaps), 0.1)


def test_a_client_that_stops_reading_stops_the_engine(plain: Plain) -> None:
    engine = plain.engine
    engine.script(Scripted(tokens=("x" * 65536,) * 1000), "only")
    before = plain.herd.rss_bytes()
    with Client(plain.herd.port) as client:
        client.ask("POST", "/api/generate", ASK)
        answer = client.begin()
        engine.wait_for(lambda c: c.tokens > 0)
        client.socket.settimeout(10)
        assert plain.herd.rss_bytes() - before < 40 * 2**20
        for _ in client.body(answer):
            pass
    assert answer.is_whole
    assert answer.lines()[-1]["done"] is True


def test_a_broken_stream_says_so(plain: Plain) -> None:
    plain.engine.fail_next(Fault.CUT_MID_STREAM)
    answer = plain.herd.call("POST", "/api/generate", ASK)
    assert answer.is_whole
    assert answer.lines()[-1]["error"]


def test_pipelined_requests_are_answered_in_order(plain: Plain) -> None:
    with Client(plain.herd.port) as client:
        for i in range(3):
            client.ask("POST", "/api/generate", {**ASK, "prompt": f"p{i}"})
        for i in range(3):
            assert client.read().lines()[0]["response"] == f"p{i}"
