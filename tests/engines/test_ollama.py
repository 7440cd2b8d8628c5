"""Ollama's answers, as recorded from a real one."""

import json

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_herd.engines import probe as engine_module
from ollama_herd.engines.ollama import (
    OllamaProbe,
    Shown,
    describe,
    num_ctx_of,
    parse_ps,
    parse_show,
    parse_tags,
    weights_of,
)
from ollama_herd.engines.probe import Answer, EngineFailure, EngineHttp
from tests.agent.fake_engine import (
    OLLAMA,
    body_of,
    engine_running,
    json_answer,
    recorded,
    refusal,
    until,
)

WEIGHTS = "sha256:a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"


def answer(name: str) -> Answer:
    return Answer(200, body_of(recorded(name)))


def test_tags_as_recorded() -> None:
    tags = parse_tags(answer("ollama_005_get_tags"), "x")
    names = [tag.model.name for tag in tags]
    assert names == ["tiny-c:270m", "tiny-b:latest", "tiny:chat", "tiny2:latest", "tiny:latest"]
    model = tags[2].model
    assert model.digest == "8962f2c31729dde308ea138c454bea18df9bdff306487f7f6ccd4dbc42f33119"
    assert model.size_bytes == 253113776
    assert model.modified_at == "2026-11-22T10:14:49.053224366Z"
    assert model.capabilities == ("completion", "tools")
    assert model.details.context_length == 32768
    assert model.details.families == ("gemma3",)
    assert tags[2].has_capabilities
    assert not tags[2].model.remote_host


def test_ps_as_recorded() -> None:
    assert parse_ps(answer("ollama_011_ps_empty"), "x") == ()
    (loaded,) = parse_ps(answer("ollama_021_ps_one"), "x")
    assert loaded.name == "tiny:latest"
    assert loaded.size_bytes == 287781682
    assert loaded.size_vram_bytes == 0
    assert loaded.context_length == 4096
    assert loaded.expires_at == "2026-11-22T10:22:00.006700347Z"


def test_show_as_recorded() -> None:
    assert parse_show(answer("ollama_012_show"), "x") == Shown(
        weights=WEIGHTS, capabilities=("completion",), context_length=32768, embedding_length=640
    )
    embedding = parse_show(answer("ollama_080_show_embed_model"), "x")
    assert embedding.capabilities == ("embedding",)
    assert embedding.weights != WEIGHTS


@pytest.mark.parametrize(
    ("modelfile", "num_ctx"),
    [
        ("FROM /m\nPARAMETER num_thread 1\n", 0),
        ("FROM /m\nPARAMETER num_ctx 8192\nPARAMETER stop x\n", 8192),
        ("PARAMETER num_ctx 1\nPARAMETER num_ctx 16384", 16384),
        ("PARAMETER num_ctx many\n# PARAMETER num_ctx 5\n", 0),
    ],
)
def test_a_modelfile_may_set_the_context(modelfile: str, num_ctx: int) -> None:
    assert num_ctx_of(modelfile) == num_ctx


A, B = "a" * 64, "b" * 64


@pytest.mark.parametrize(
    ("modelfile", "weights"),
    [
        ("", ""),
        ("FROM /models/safetensors-folder\n", ""),
        (f"# FROM /x/sha256-{B}\nFROM /x/sha256-{A}\n", f"sha256:{A}"),
        (f"FROM C:\\Users\\me\\.ollama\\models\\blobs\\sha256-{A}\r\n", f"sha256:{A}"),
        (f"FROM /a b/sha256-{A}\nADAPTER /x/sha256-{B}\n", f"sha256:{A}+sha256:{B}"),
        (f'FROM @sha256:{A}\nTEMPLATE """sha256-{B}"""\n', f"sha256:{A}"),
    ],
)
def test_weights_are_the_files_of_the_runner(modelfile: str, weights: str) -> None:
    assert weights_of(modelfile) == weights


def test_what_an_old_ollama_leaves_out_comes_from_show() -> None:
    old = {"name": "m:latest", "digest": "d", "details": {"family": "f", "families": None}}
    (tag,) = parse_tags(Answer(200, json.dumps({"models": [old]}).encode()), "x")
    assert not tag.has_capabilities
    shown = parse_show(answer("ollama_012_show"), "x")
    model = describe(tag, shown)
    assert model.capabilities == ("completion",)
    assert model.details.context_length == 32768
    assert model.details.family == "f"
    assert model.weights == WEIGHTS


def test_tags_go_before_show_where_they_tell() -> None:
    (tag, *_) = parse_tags(answer("ollama_005_get_tags"), "x")
    model = describe(tag, Shown("w", ("embedding",), 1, 2))
    assert model.capabilities == ("completion",)
    assert model.details == tag.model.details
    assert model.weights == "w"


def test_an_odd_entry_does_not_hide_the_others() -> None:
    body = b'{"models":[{"name":7},{"model":"a"},{},{"name":"b","size":1.5},{"name":"c"}]}'
    assert [tag.model.name for tag in parse_tags(Answer(200, body), "x")] == ["a", "c"]
    assert [entry.name for entry in parse_ps(Answer(200, body), "x")] == ["a", "c"]


def test_a_list_that_no_report_could_hold_is_refused() -> None:
    """Else the router would refuse the report, and lose the node with its other engines."""
    body = json.dumps({"models": [{"name": f"m{i}"} for i in range(5001)]}).encode()
    assert "lists 5001 models" in refusal(lambda: parse_tags(Answer(200, body), "x"))


def test_an_engines_words_do_nothing_to_a_terminal() -> None:
    said = refusal(lambda: parse_tags(Answer(500, b"\x1b[31mbad\r\nline\x07\xff"), "x"))
    assert said.isprintable()
    assert "bad" in said


def test_no_models_may_be_null() -> None:
    assert parse_tags(Answer(200, b'{"models":null}'), "x") == ()
    assert parse_ps(Answer(200, b"{}"), "x") == ()


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=10,
)
ENTRY = st.dictionaries(
    st.sampled_from(
        ["name", "model", "size", "digest", "details", "capabilities", "context_length"]
    ),
    JSON,
)


@given(st.dictionaries(st.sampled_from(["models", "modelfile", "model_info"]), JSON))
def test_any_json_is_read_or_refused(value) -> None:
    for parse in (parse_tags, parse_ps, parse_show):
        try:
            parse(Answer(200, json.dumps(value).encode()), "x")
        except EngineFailure:
            continue


@given(st.lists(ENTRY, max_size=5))
def test_any_entry_is_read_or_left_out(entries) -> None:
    body = json.dumps({"models": entries}).encode()
    assert all(tag.model.name for tag in parse_tags(Answer(200, body), "x"))
    assert all(entry.name for entry in parse_ps(Answer(200, body), "x"))


@given(st.binary(max_size=50), st.integers(200, 599))
def test_any_answer_is_read_or_refused_with_a_reason(body: bytes, status: int) -> None:
    said = refusal(lambda: parse_tags(Answer(status, body), "somewhere:1"))
    assert said is None or "somewhere:1" in said


async def test_each_manifest_is_shown_once_in_the_background() -> None:
    async with engine_running(OLLAMA) as engine, aiohttp.ClientSession() as session:
        probe = OllamaProbe(EngineHttp(session, engine.address))
        first = await probe.look(thorough=True)
        assert first.version == "0.33.0-rc2"
        assert len(first.models) == 5
        await until(lambda: engine.asked.count("/api/show") == 4)  # two share a manifest
        await until(probe._showing.done)
        again = await probe.look(thorough=True)
        assert {model.weights for model in again.models} == {WEIGHTS}
        assert engine.asked.count("/api/show") == 4
        assert b'{"model":"tiny-c:270m"}' in engine.bodies
        await probe.close()


async def test_a_look_asks_for_little_when_nothing_changes() -> None:
    async with engine_running(OLLAMA) as engine, aiohttp.ClientSession() as session:
        probe = OllamaProbe(EngineHttp(session, engine.address))
        await probe.look(thorough=True)
        await until(probe._showing.done)
        engine.asked.clear()
        await probe.look(thorough=False)
        assert engine.asked == ["/api/ps"]
        loaded = b'{"models":[{"name":"new:latest","digest":"n"}]}'
        engine.answers["/api/ps"] = json_answer(loaded.decode())
        await probe.look(thorough=False)
        assert engine.asked[1:3] == ["/api/ps", "/api/tags"]
        await probe.close()


async def test_a_model_that_cannot_be_shown_is_not_asked_for_all_the_time() -> None:
    async with engine_running(OLLAMA) as engine, aiohttp.ClientSession() as session:
        engine.answers["/api/show"] = json_answer('{"error":"no"}', "404 Not Found")
        probe = OllamaProbe(EngineHttp(session, engine.address))
        await probe.look(thorough=True)
        await until(probe._showing.done)
        findings = await probe.look(thorough=True)
        assert {model.weights for model in findings.models} == {""}
        assert engine.asked.count("/api/show") == 4
        await probe.close()


async def test_a_hanging_show_holds_nothing_up() -> None:
    async with engine_running(OLLAMA) as engine, aiohttp.ClientSession() as session:
        engine.hanging.add("/api/show")
        probe = OllamaProbe(EngineHttp(session, engine.address))
        for _ in range(3):
            assert len((await probe.look(thorough=True)).models) == 5
        assert engine.asked.count("/api/show") == 1
        await probe.close()


async def test_a_remote_model_is_never_shown() -> None:
    tags = json_answer('{"models":[{"name":"big:cloud","digest":"d","remote_host":"https://x"}]}')
    async with (
        engine_running(OLLAMA | {"/api/tags": tags}) as engine,
        aiohttp.ClientSession() as session,
    ):
        probe = OllamaProbe(EngineHttp(session, engine.address))
        assert [model.name for model in (await probe.look(thorough=True)).models] == ["big:cloud"]
        assert probe._showing is None


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "proper HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}", "proper HTTP"),
        (b"", "closed the connection"),
        (json_answer("[]"), "something else"),
        (json_answer("{"), "something else"),
        (json_answer('{"error":"model file is damaged"}', "500 X"), "500: .*model file is damaged"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://other/\r\nContent-Length: 0\r\n\r\n", "302"),
    ],
)
async def test_every_failure_says_which_engine_and_why(raw: bytes, reason: str) -> None:
    answers = OLLAMA | {"/api/ps": raw}
    async with engine_running(answers) as engine, aiohttp.ClientSession() as session:
        engine.closing.add("/api/ps")
        probe = OllamaProbe(EngineHttp(session, engine.address))
        with pytest.raises(EngineFailure, match=reason) as raised:
            await probe.look(thorough=True)
        assert engine.address.netloc in str(raised.value)
        assert not raised.value.is_gone


async def test_a_hung_engine_is_found_out_in_time(monkeypatch) -> None:
    monkeypatch.setattr(engine_module, "PROBE_TIMEOUT_S", 0.1)
    async with engine_running(OLLAMA) as engine, aiohttp.ClientSession() as session:
        engine.hanging.add("/api/ps")
        with pytest.raises(EngineFailure, match=r"did not answer /api/ps in 0.1 s"):
            await OllamaProbe(EngineHttp(session, engine.address)).look(thorough=True)


async def test_an_endless_answer_is_cut(monkeypatch) -> None:
    monkeypatch.setattr(engine_module, "MAX_ANSWER_BYTES", 1000)
    async with engine_running(OLLAMA) as engine, aiohttp.ClientSession() as session:
        with pytest.raises(EngineFailure, match="without end"):
            await OllamaProbe(EngineHttp(session, engine.address)).look(thorough=True)
