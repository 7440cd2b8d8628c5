"""Bodies of the calls that manage models, read as Ollama reads them; answers made without one."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_herd.api.count_tokens import count_tokens
from ollama_herd.api.errors import ApiError
from ollama_herd.api.listing import read_ps, read_tags
from ollama_herd.api.model_bodies import ModelBody, read_model_body
from ollama_herd.api.show import show
from ollama_herd.core.fleet import engine_replicas
from ollama_herd.core.node import EngineKind, Model, ModelDetails
from tests.core.fleets import engine, fleet_of, report
from tests.fakes.recordings import OLLAMA, read
from tests.fakes.replay import parse_response

MANAGE = OLLAMA.parent / "ollama_manage"
PATHS = ["/api/show", "/api/delete", "/api/copy", "/api/pull", "/api/push", "/api/create"]
REFUSED = [
    OLLAMA / "016_show_no_model.txt",
    OLLAMA / "102_copy_bad_name.txt",
    MANAGE / "127_create_no_model.txt",
    MANAGE / "135_pull_bad_name.txt",
    MANAGE / "136_pull_empty.txt",
]


def parsed(path, value):
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    found = read_model_body(path, body)
    assert isinstance(found, ModelBody), found
    return found


@pytest.mark.parametrize("file", REFUSED, ids=lambda f: f.stem)
def test_refused_as_recorded(file):
    recording = read(file)
    real = parse_response(recording.response)
    refusal = read_model_body(recording.path, recording.body)
    assert isinstance(refusal, ApiError)
    assert (refusal.status, {"error": refusal.message}) == (real.status, real.json())


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "missing request body"),
        (b"{", "unexpected EOF"),
        (b"{x", "invalid character 'x' looking for beginning of object key string"),
    ],
)
def test_what_is_no_json(path, body, message):
    refusal = read_model_body(path, body)
    assert isinstance(refusal, ApiError)
    assert (refusal.status, refusal.message) == (400, message)


def test_wrong_types_in_the_words_of_go():
    refusal = read_model_body("/api/pull", b'{"model": 5}')
    assert isinstance(refusal, ApiError)
    text = "json: cannot unmarshal number into Go struct field PullRequest.model of type string"
    assert refusal.message == text


@given(st.sampled_from(PATHS), st.binary(max_size=60))
def test_never_raises(path, body):
    assert isinstance(read_model_body(path, body), ModelBody | ApiError)


names = st.sampled_from(["model", "Model", "MODEL", "name", "Name"])
extras = st.dictionaries(
    st.text("abcxyz_", min_size=1, max_size=6).filter(lambda k: k not in ("from", "node")),
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    max_size=3,
)


@given(names, extras, st.booleans())
def test_bodies_go_on_as_they_came(key, more, with_node):
    value = {key: "tiny", **more}
    body = json.dumps(value, ensure_ascii=False).encode()
    assert parsed("/api/pull", body).body == body
    if with_node:
        named = parsed("/api/pull", {**value, "Node": "b"})
        assert named.node == "b"
        assert json.loads(named.body) == value


def test_the_last_of_several_spellings_counts():
    assert parsed("/api/pull", b'{"model":"a","MODEL":"b"}').model == "b"
    assert parsed("/api/pull", b'{"model":"a","Model":null}').model == "a"
    assert parsed("/api/delete", b'{"model":"","name":"x"} trailing').model == "x"


def test_digests_of_every_kind_of_file():
    body = {"model": "m", "files": {"a": "d1", "b": "d2"}, "adapters": {"c": "d3"}, "from": "x"}
    found = parsed("/api/create", {**body, "draft_files": {"d": "d1"}, "stream": False})
    assert (found.digests, found.source, found.stream) == (("d1", "d2", "d3"), "x", False)


@pytest.mark.parametrize(
    ("body", "is_plain"),
    [
        ({"model": "tiny"}, True),
        ({"Name": "tiny", "verbose": False}, True),
        ({"model": "tiny", "verbose": True}, False),
        ({"model": "tiny", "system": "x"}, False),
    ],
)
def test_answers_that_are_the_same_for_everyone(body, is_plain):
    assert parsed("/api/show", body).is_plain is is_plain


def test_a_recorded_list_is_read_whole():
    real = parse_response(read(OLLAMA / "103_tags_after_copy.txt").response)
    models = read_tags(real.body)
    assert models is not None
    entries = real.json()["models"]
    assert [m.name for m in models] == [e["name"] for e in entries]
    assert [m.digest for m in models] == [e["digest"] for e in entries]
    assert models[0].details.family == "gemma3"
    assert models[0].capabilities == ("completion",)
    loaded = read_ps(parse_response(read(OLLAMA / "021_ps_one.txt").response).body)
    assert loaded is not None
    assert (loaded[0].name, loaded[0].context_length) == ("tiny:latest", 4096)


@given(st.binary(max_size=40))
def test_what_is_no_list(body):
    assert read_tags(b"[" + body) is None
    assert read_ps(b"[" + body) is None


def replica_of(known: Model, **more):
    fleet = fleet_of([report("a", [engine([known], kind=EngineKind.OPENAI, **more)])])
    node = fleet.nodes["a"]
    return engine_replicas(node, node.engines[0])[0]


def test_show_of_a_model_nobody_describes_is_complete():
    shown = json.loads(show(replica_of(Model(name="bare"))))
    real = parse_response(read(OLLAMA / "012_show.txt").response).json()
    assert set(shown) == set(real) - {"tensors"}
    assert all(type(shown[key]) is type(real[key]) for key in shown)
    assert shown["capabilities"] == ["completion"]
    assert shown["model_info"] == {"general.architecture": "unknown"}


def test_show_tells_what_is_known():
    details = ModelDetails(family="llama", parameter_size="134.5M", embedding_length=576)
    known = Model(name="x", details=details, capabilities=("completion", "tools"))
    shown = json.loads(show(replica_of(known)))
    assert shown["model_info"] == {
        "general.architecture": "llama",
        "general.parameter_count": 134500000,
        "llama.embedding_length": 576,
    }
    assert shown["capabilities"] == ["completion", "tools"]
    assert shown["details"]["families"] == ["llama"]


def test_tokens_are_four_bytes():
    message = {"role": "user", "content": "x" * 4000}
    body = json.dumps({"model": "m", "messages": [message], "max_tokens": 5}).encode()
    counted = count_tokens(body)
    assert isinstance(counted, bytes)
    assert 1000 <= json.loads(counted)["input_tokens"] <= 1020
    image = {"type": "image", "source": {"type": "base64", "data": "A" * 40000}}
    pictured = {"model": "m", "messages": [{"role": "user", "content": [image]}]}
    counted = count_tokens(json.dumps(pictured).encode())
    assert isinstance(counted, bytes)
    assert json.loads(counted)["input_tokens"] < 1000


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "EOF"),
        (b'{"messages":[]}', "model is required"),
        (b'{"model":"m","messages":[]}', "messages is required"),
    ],
)
def test_tokens_of_what_is_no_message(body, message):
    refusal = count_tokens(body)
    assert isinstance(refusal, ApiError)
    assert (refusal.status, refusal.message) == (400, message)
