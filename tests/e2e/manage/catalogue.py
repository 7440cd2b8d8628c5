"""Two nodes whose models may be changed, and how to look at them."""

from tests.e2e.conftest import Pair
from tests.fakes.manage import ManagedOllama
from tests.fakes.models import FakeModel, model, recorded_models
from tests.fakes.raw import exchange
from tests.fakes.recordings import OLLAMA, read
from tests.fakes.replay import parse_response

MANAGE = OLLAMA.parent / "ollama_manage"
NEW = model("new:1b", size_bytes=4000)


def catalogue(own: str) -> list[FakeModel]:
    return [*recorded_models(), model(own)]


def tags(pair: Pair) -> set[str]:
    return {entry["name"] for entry in pair.call("GET", "/api/tags").json()["models"]}


def managed(pair: Pair, name: str) -> ManagedOllama:
    engine = pair.engine(name)
    assert isinstance(engine, ManagedOllama)
    return engine


def nodes_with(pair: Pair, name: str) -> list[str]:
    return [n for n in ("a", "b") if model(name).key in pair.engine(n).models]


def check_same(fleet: Pair, name: str, headers: bytes = b"") -> None:
    recording = read(MANAGE / f"{name}.txt")
    real = parse_response(recording.response, recording.method)
    line, _, rest = recording.request.partition(b"\r\n")
    answer = exchange(fleet.port, line + b"\r\n" + headers + rest)
    assert (answer.status, answer.body) == (real.status, real.body)
    assert answer.header("content-type") == real.header("content-type")
    assert answer.is_whole
