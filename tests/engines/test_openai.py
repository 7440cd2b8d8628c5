"""llama.cpp as recorded, others as documented."""

import json

import aiohttp
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_herd.core.node import EngineKind, EngineReport
from ollama_herd.engines.listings import parse_lm_studio
from ollama_herd.engines.openai import (
    OpenAiProbe,
    Props,
    model_name,
    parameter_size,
    parse_models,
    quantization,
)
from ollama_herd.engines.probe import Answer, EngineFailure, EngineHttp, Findings
from tests.agent.fake_engine import (
    LLAMACPP,
    body_of,
    engine_running,
    json_answer,
    recorded,
    refusal,
)


def answer(name: str) -> Answer:
    return Answer(200, body_of(recorded(name)))


def props(name: str) -> Props:
    return msgspec.json.decode(body_of(recorded(name)), type=Props)


def test_one_llama_cpp_as_recorded() -> None:
    found = parse_models(answer("llamacpp_002_get_v1_models"), props("llamacpp_004_get_props"), "x")
    (model,) = found.models
    assert model.name == "tiny"
    assert model.size_bytes == 246587904
    assert model.capabilities == ("completion",)
    assert model.details.parameter_size == "268.10M"
    assert model.details.quantization_level == "Q4_K_M"
    assert model.details.context_length == 32768
    assert model.details.embedding_length == 640
    (loaded,) = found.loaded
    assert loaded.name == "tiny"
    assert loaded.context_length == 2048  # of one slot
    assert loaded.details == model.details
    assert found.slots == 2
    assert found.max_loaded is None
    assert found.version == "b0-unknown"


def test_llama_cpp_as_router_as_recorded() -> None:
    said = props("llamacpp_102_router_props")
    found = parse_models(answer("llamacpp_100_router_models"), said, "x")
    assert [model.name for model in found.models] == ["gemma-b", "gemma-c"]
    assert found.loaded == ()
    assert found.slots == 1
    assert found.max_loaded == 1
    after = parse_models(answer("llamacpp_105_router_models_after"), said, "x")
    assert [model.name for model in after.loaded] == ["gemma-b"]


def test_vllm_has_in_memory_what_it_lists() -> None:
    body = {"data": [{"id": "org/model", "owned_by": "vllm", "max_model_len": 8192, "root": "x"}]}
    found = parse_models(Answer(200, json.dumps(body).encode()), None, "x")
    assert found.models[0].name == "org/model"
    assert found.models[0].details.context_length == 8192
    assert found.loaded[0].context_length == 8192
    assert found.slots is None


ODD = [
    {"id": ""},
    {"id": "x" * 600},
    {"id": "m", "meta": {"size": -1}},
    {"id": "m", "meta": {"size": 2**63, "n_ctx": 4}},
    {"id": "m", "meta": {"n_ctx": -4}},
    {"id": "m", "max_model_len": -1, "owned_by": "vllm"},
]


@pytest.mark.parametrize("odd", ODD, ids=str)
def test_what_no_report_can_hold_is_left_out(odd: dict[str, object]) -> None:
    body = json.dumps({"data": [odd, {"id": "good"}]}).encode()
    found = parse_models(Answer(200, body), None, "x")
    assert [model.name for model in found.models] == ["good"]
    assert is_reportable(found)


@pytest.mark.parametrize(
    "said",
    [
        {"total_slots": -1, "build_info": "b1"},
        {"total_slots": 10**6, "build_info": "b1"},
        {"max_instances": -1, "build_info": "b1"},
        {"build_info": "b" * 600},
    ],
    ids=str,
)
def test_facts_that_no_report_can_hold_are_none(said: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(json.dumps(said), type=Props)


def test_lm_studios_odd_entries_are_left_out() -> None:
    odd = [{"id": ""}, {"id": "m", "loaded_context_length": -1, "state": "loaded"}]
    body = json.dumps({"data": [*odd, {"id": "good"}]}).encode()
    found = parse_lm_studio(Answer(200, body), "x")
    assert [model.name for model in found.models] == ["good"]
    assert is_reportable(found)


def is_reportable(found: Findings) -> bool:
    """Whether a router would take it in."""
    report = EngineReport(
        "openai-1",
        EngineKind.OPENAI,
        1,
        version=found.version,
        models=found.models,
        loaded=found.loaded,
        slots=found.slots,
        max_loaded=found.max_loaded,
    )
    return msgspec.json.decode(msgspec.json.encode(report), type=EngineReport) == report


def test_nothing_is_claimed_of_an_engine_that_lists_its_disk() -> None:
    body = {"data": [{"id": "mlx-community/m", "object": "model", "created": 1}]}
    found = parse_models(Answer(200, json.dumps(body).encode()), None, "x")
    assert [model.name for model in found.models] == ["mlx-community/m"]
    assert found.loaded == ()


def test_lm_studio() -> None:
    entries = [
        {"id": "a", "type": "vlm", "arch": "qwen2_vl", "state": "loaded",
         "max_context_length": 32768, "loaded_context_length": 4096, "quantization": "4bit",
         "compatibility_type": "mlx"},
        {"id": "b", "type": "embeddings", "state": "not-loaded", "max_context_length": 2048},
    ]  # fmt: skip
    found = parse_lm_studio(Answer(200, json.dumps({"data": entries}).encode()), "x")
    assert [model.capabilities for model in found.models] == [
        ("completion", "vision"),
        ("embedding",),
    ]
    assert [(model.name, model.context_length) for model in found.loaded] == [("a", 4096)]
    assert found.loaded[0].details == found.models[0].details


@pytest.mark.parametrize(
    ("name", "known_as"),
    [
        ("/srv/models/gemma-3-270m-q4_k_m.gguf", "gemma-3-270m-q4_k_m"),
        ("C:\\models\\Gemma.GGUF", "Gemma"),
        ("model.gguf", "model"),
        ("meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-8B"),
        ("tiny", "tiny"),
    ],
)
def test_a_path_becomes_a_name(name: str, known_as: str) -> None:
    assert model_name(name) == known_as


@given(st.text(max_size=40))
def test_no_name_is_lost(name: str) -> None:
    assert model_name(name) or not name.strip("/\\. ")


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, ""), (-1, ""), (999, "999"), (268098176, "268.10M"), (7_241_732_096, "7.2B")],
)
def test_parameter_sizes(count: int, text: str) -> None:
    assert parameter_size(count) == text


@pytest.mark.parametrize(
    ("ftype", "level"),
    [("Q4_K - Medium", "Q4_K_M"), ("Q5_K - Small", "Q5_K_S"), ("Q8_0", "Q8_0"), ("", "")],
)
def test_quantization_levels(ftype: str, level: str) -> None:
    assert quantization(ftype) == level


@given(st.binary(max_size=60), st.integers(200, 599))
def test_any_answer_is_read_or_refused_with_a_reason(body: bytes, status: int) -> None:
    answered = Answer(status, body)
    for parse in (
        lambda: parse_models(answered, None, "somewhere:1"),
        lambda: parse_lm_studio(answered, "somewhere:1"),
    ):
        said = refusal(parse)
        assert said is None or "somewhere:1" in said


async def test_a_look_at_llama_cpp() -> None:
    async with engine_running(LLAMACPP) as engine, aiohttp.ClientSession() as session:
        probe = OpenAiProbe(EngineHttp(session, engine.address))
        findings = await probe.look(thorough=True)
        assert findings.slots == 2
        engine.asked.clear()
        assert await probe.look(thorough=False) == findings
        assert engine.asked == ["/health", "/v1/models"]
        await probe.close()


async def test_a_look_at_lm_studio_which_answers_any_path() -> None:
    odd = json_answer('{"error":"Unexpected endpoint or method."}')
    models = json_answer('{"data":[{"id":"a","type":"llm","state":"not-loaded"}]}')
    answers = {"/health": odd, "/props": odd, "/version": odd, "/api/v0/models": models}
    async with engine_running(answers) as engine, aiohttp.ClientSession() as session:
        findings = await OpenAiProbe(EngineHttp(session, engine.address)).look(thorough=True)
        assert [model.name for model in findings.models] == ["a"]


async def test_a_look_at_vllm() -> None:
    answers = {
        "/health": json_answer(""),
        "/version": json_answer('{"version":"0.11.0"}'),
        "/v1/models": json_answer('{"data":[{"id":"org/m","owned_by":"vllm"}]}'),
    }
    async with engine_running(answers) as engine, aiohttp.ClientSession() as session:
        findings = await OpenAiProbe(EngineHttp(session, engine.address)).look(thorough=True)
        assert findings.version == "0.11.0"


async def test_a_server_that_chokes_on_the_question_is_used_all_the_same() -> None:
    async with engine_running(LLAMACPP) as engine, aiohttp.ClientSession() as session:
        engine.closing.add("/v1/messages")
        findings = await OpenAiProbe(EngineHttp(session, engine.address)).look(thorough=True)
        assert [model.name for model in findings.models] == ["tiny"]
        assert not findings.speaks_anthropic


REFUSED = json_answer('{"error":{"code":500,"message":"\'messages\' is required"}}', "500 X")
UNKNOWN = json_answer('{"error":{"code":404,"message":"File Not Found"}}', "404 Not Found")
ODD = json_answer('{"error":"Unexpected endpoint or method. (POST /v1/messages)"}')


@pytest.mark.parametrize(
    ("raw", "speaks"),
    [
        (REFUSED, True),
        (json_answer('{"error":{"message":"Field required"}}', "400 Bad Request"), True),
        (json_answer('{"detail":[]}', "422 Unprocessable Entity"), True),
        (UNKNOWN, False),
        (json_answer("", "405 Method Not Allowed"), False),
        (json_answer("", "501 Not Implemented"), False),
        (ODD, False),
    ],
)
async def test_whether_it_speaks_anthropics_dialect(raw: bytes, *, speaks: bool) -> None:
    answers = LLAMACPP | {"/v1/messages": raw}
    async with engine_running(answers) as engine, aiohttp.ClientSession() as session:
        probe = OpenAiProbe(EngineHttp(session, engine.address))
        assert (await probe.look(thorough=True)).speaks_anthropic is speaks
        assert b"{}" in engine.bodies
        assert (await probe.look(thorough=False)).speaks_anthropic is speaks
        assert engine.asked.count("/v1/messages") == 1


@pytest.mark.parametrize(
    ("path", "raw", "reason"),
    [
        ("/health", json_answer('{"error":{"message":"Loading model"}}', "503 X"), "is loading"),
        ("/v1/models", recorded("llamacpp_073_key_models_open"), "wants an API key"),
        ("/v1/models", json_answer("[]"), "something else"),
    ],
)
async def test_failures_say_why(path: str, raw: bytes, reason: str) -> None:
    async with engine_running(LLAMACPP | {path: raw}) as engine, aiohttp.ClientSession() as session:
        with pytest.raises(EngineFailure, match=reason) as raised:
            await OpenAiProbe(EngineHttp(session, engine.address)).look(thorough=True)
        assert engine.address.netloc in str(raised.value)
