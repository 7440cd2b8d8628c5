"""Recorded answers of a real Ollama through the router: the same bytes come out, however they
are cut on their way in."""

from collections.abc import Iterator

import pytest

from tests.e2e.processes import Herd, Node
from tests.fakes.models import model, recorded_models
from tests.fakes.raw import exchange
from tests.fakes.recordings import OLLAMA, Recording, read, read_all
from tests.fakes.replay import ReplayEngine, Splitter, at_random, every, parse_response, whole
from tests.fakes.shapes import error_text

PATHS = (
    "/api/chat",
    "/api/generate",
    "/api/embed",
    "/api/embeddings",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
    "/v1/messages",
)
ANSWERED_BY_THE_ROUTER = (
    "unknown",
    "bad_json",
    "empty_body",
    "no_model",
    "bad_model_name",
    "wrong_method",
    "put_chat",
    "options_",
    "foreign_origin",
    "gzip",
    "broken_",
    "messages_bad",
    "content_length_short",
    "truncated",
)
SHORTENED = ("076_embed_too_long", "311_ctx_overflow")
"""Recorded with a request body cut for the archive: they cannot be sent again."""

NOT_WHOLE = ("355_sigterm_midstream", "325_v1_stream_runner_killed", "353_ollama_frozen")

SPLITS: dict[str, Splitter] = {
    "whole": whole,
    "bytes": every(1),
    "odd": every(37),
    "random": at_random(7),
}


def _is_passed_on(recording: Recording) -> bool:
    if recording.method != "POST" or recording.path not in PATHS:
        return False
    return not any(
        part in recording.name for part in ANSWERED_BY_THE_ROUTER + NOT_WHOLE + SHORTENED
    )


PULLED = "127.0.0.1:5055/library/tinyp:latest"
"""A model from a registry that is not Ollama's: its name holds a host and a port."""

RECORDINGS = [r for r in read_all(OLLAMA) if _is_passed_on(r)]
RECORDINGS.append(read(OLLAMA.parent / "ollama_manage" / "405_chat_pulled.txt"))


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Herd, ReplayEngine]]:
    folder = tmp_path_factory.mktemp("golden")
    models = [*recorded_models(), model(PULLED)]
    with ReplayEngine(models=models).in_thread() as engine, Herd(folder).ready() as herd:
        url = f"http://127.0.0.1:{herd.port}"
        with Node(folder, "recorded", url, [engine.url], env={"HERD_NODE_SLOTS": "4"}):
            herd.wait_models("tiny:latest", "tiny-full:latest")
            yield herd, engine


def test_there_is_something_to_replay() -> None:
    assert len(RECORDINGS) > 60
    assert {r.path for r in RECORDINGS} == set(PATHS)


@pytest.mark.parametrize("split", SPLITS.values(), ids=SPLITS.keys())
@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda r: r.name)
def test_same_answer_as_recorded(
    replayed: tuple[Herd, ReplayEngine], recording: Recording, split: Splitter
) -> None:
    herd, engine = replayed
    real = parse_response(recording.response, recording.method)
    if split is not whole and len(recording.response) > 4000 and split is SPLITS["bytes"]:
        split = every(11)
    engine.clear()
    engine.load(recording, split)
    answer = exchange(herd.port, recording.request)
    assert answer.status == real.status
    assert error_text(answer.body) == error_text(real.body)
    assert answer.is_whole
    assert answer.header("content-type") == real.header("content-type")
    if "http10" not in recording.name:
        assert answer.framing == real.framing
    if not engine.seen:
        assert real.status == 400  # the router saw what is wrong, and said the same
        return
    assert answer.body == real.body
    assert answer.header("x-herd-node") == "recorded"
    sent = engine.seen[0]
    assert (sent.method, sent.path) == (recording.method, recording.path)
    if recording.name != "208_chunked_request_body":
        assert sent.body == recording.body
