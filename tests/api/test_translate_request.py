"""What an engine of OpenAI's dialect is asked."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_herd.api.errors import ApiError
from ollama_herd.api.translate import ENGINE_LACKS_FEATURE
from tests.api.exchanges import OLLAMA
from tests.api.translations import HELLO, engine_body, refusal, translation
from tests.fakes.recordings import read

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(40)).decode()
JPEG = base64.b64encode(b"\xff\xd8\xff\xe0" + bytes(40)).decode()
WEBP = base64.b64encode(b"RIFF\x00\x00\x00\x00WEBPVP8 " + bytes(40)).decode()
WAV = base64.b64encode(b"RIFF\x00\x00\x00\x00WAVEfmt " + bytes(40)).decode()
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


def chat_body(**fields: Any) -> dict[str, Any]:
    return engine_body("/api/chat", {**HELLO, **fields})


def generate_body(**fields: Any) -> dict[str, Any]:
    return engine_body("/api/generate", {"model": "asked", "prompt": "The sky is", **fields})


def test_chat_streams_by_default_and_asks_for_usage() -> None:
    made = translation("/api/chat", HELLO)
    assert made.path == "/v1/chat/completions"
    assert json.loads(made.body) == {
        "model": "engine-name",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_chat_without_stream() -> None:
    body = chat_body(stream=False)
    assert body["stream"] is False
    assert "stream_options" not in body


def test_options_get_the_names_of_engines() -> None:
    options = {
        "num_predict": 8,
        "temperature": 0,
        "top_p": 0.9,
        "top_k": 40.0,
        "min_p": 0.05,
        "typical_p": 0.7,
        "repeat_penalty": 1.1,
        "repeat_last_n": 33,
        "presence_penalty": 1.5,
        "frequency_penalty": 0.5,
        "num_keep": 5,
        "seed": 42,
        "stop": ["\n", "user:"],
    }
    body = chat_body(options=options)
    fixed = {"model", "messages", "stream", "stream_options"}
    assert {key: value for key, value in body.items() if key not in fixed} == {
        "max_tokens": 8,
        "temperature": 0,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.05,
        "typical_p": 0.7,
        "repeat_penalty": 1.1,
        "repetition_penalty": 1.1,
        "repeat_last_n": 33,
        "presence_penalty": 1.5,
        "frequency_penalty": 0.5,
        "n_keep": 5,
        "seed": 42,
        "stop": ["\n", "user:"],
    }


@pytest.mark.parametrize(
    "options",
    [
        {"num_predict": -1},
        {"num_predict": -2},
        {"seed": -1},
        {"temperature": None},
        {"num_ctx": 8192, "num_gpu": 1, "use_mmap": True, "num_thread": 4},
        {"hullo": 1},
    ],
)
def test_options_without_counterpart_are_left_out(options: dict[str, Any]) -> None:
    assert chat_body(options=options) == chat_body()


@pytest.mark.parametrize("bound", [0, 0.0, 1])
def test_no_tokens_at_all_is_a_bound_too(bound: float) -> None:
    assert chat_body(options={"num_predict": bound})["max_tokens"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_predict": "two"}, 'option "num_predict" must be of type integer'),
        ({"top_k": True}, 'option "top_k" must be of type integer'),
        ({"temperature": "hot"}, 'option "temperature" must be of type float32'),
        ({"stop": "x"}, 'option "stop" must be of type array'),
        ({"stop": [1]}, 'option "stop" must be of an array of strings'),
    ],
)
@pytest.mark.parametrize("path", ["/api/chat", "/api/embed"])
def test_options_of_the_wrong_type_are_refused_like_ollama(
    path: str, options: dict[str, Any], message: str
) -> None:
    # Recording 033: a real Ollama answers 500.
    refused = refusal(path, {**HELLO, "input": "x", "options": options})
    assert (refused.status, refused.message) == (500, message)


def test_format_json_asks_for_an_object() -> None:
    schema = {
        "type": "json_schema",
        "json_schema": {"name": "schema", "schema": {"type": "object"}},
    }
    assert chat_body(format="json")["response_format"] == schema
    assert generate_body(format="json")["response_format"] == schema


def test_format_schema_is_passed_on() -> None:
    schema = {"type": "object", "properties": {"z": {"type": "integer"}, "a": {"const": 1e22}}}
    body = chat_body(format=schema)
    assert body["response_format"]["json_schema"]["schema"] == schema
    raw = generate_body(format=schema, raw=True)
    assert raw["json_schema"] == schema
    assert raw["response_format"]["json_schema"]["schema"] == schema


@pytest.mark.parametrize("nothing", [None, ""])
def test_format_of_nothing(nothing: str | None) -> None:
    assert "response_format" not in chat_body(format=nothing)


@pytest.mark.parametrize(
    ("think", "template", "effort"),
    [
        (True, {"enable_thinking": True, "thinking": True}, None),
        (False, {"enable_thinking": False, "thinking": False}, None),
        (
            "low",
            {"enable_thinking": True, "thinking": True, "reasoning_effort": "low"},
            "low",
        ),
        (
            "max",
            {"enable_thinking": True, "thinking": True, "reasoning_effort": "high"},
            "high",
        ),
        (None, None, None),
    ],
)
def test_think(think: Any, template: dict[str, Any] | None, effort: str | None) -> None:
    body = chat_body(think=think)
    assert body.get("chat_template_kwargs") == template
    assert body.get("reasoning_effort") == effort


def test_logprobs_ask_for_at_least_one() -> None:
    body = chat_body(logprobs=True)
    assert (body["logprobs"], body["top_logprobs"]) == (True, 1)
    body = chat_body(logprobs=True, top_logprobs=5)
    assert (body["logprobs"], body["top_logprobs"]) == (True, 5)
    assert generate_body(raw=True, logprobs=True, top_logprobs=5)["logprobs"] == 5
    assert "logprobs" not in chat_body(top_logprobs=5)


@pytest.mark.parametrize("number", [-1, 21])
def test_too_many_logprobs_are_refused(number: int) -> None:
    refused = refusal("/api/chat", {**HELLO, "logprobs": True, "top_logprobs": number})
    assert (refused.status, refused.message) == (400, "top_logprobs must be between 0 and 20")


# --- messages ----------------------------------------------------------------------------------


def messages(*given: dict[str, Any]) -> list[dict[str, Any]]:
    body = chat_body(messages=list(given))
    assert isinstance(body["messages"], list)
    return body["messages"]


def test_images_become_data_uris() -> None:
    (message,) = messages({"role": "user", "content": "what?", "images": [PNG, JPEG, WEBP, "AAAA"]})
    assert message["content"][0] == {"type": "text", "text": "what?"}
    urls = [part["image_url"]["url"] for part in message["content"][1:]]
    assert urls == [
        f"data:image/png;base64,{PNG}",
        f"data:image/jpeg;base64,{JPEG}",
        f"data:image/webp;base64,{WEBP}",
        "data:image/jpeg;base64,AAAA",
    ]


def test_image_that_is_a_data_uri_already() -> None:
    (message,) = messages(
        {"role": "user", "content": "", "images": [f"data:image/png;base64,{PNG}"]}
    )
    assert message["content"] == [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
    ]


def test_sounds_come_in_images_too() -> None:
    (message,) = messages({"role": "user", "content": "", "images": [WAV]})
    assert message["content"] == [
        {"type": "input_audio", "input_audio": {"data": WAV, "format": "wav"}}
    ]


def test_image_that_is_no_base64_is_refused() -> None:
    given = [{"role": "user", "content": "what", "images": [PNG, "@@@"]}]
    refused = refusal("/api/chat", {**HELLO, "messages": given})
    assert refused.status == 400
    assert "images.1" in refused.message
    assert "illegal base64 data" in refused.message


def test_generate_with_images() -> None:
    (message,) = generate_body(images=[PNG])["messages"]
    assert [part["type"] for part in message["content"]] == ["text", "image_url"]


def test_recorded_tool_round_trip() -> None:
    # Recording 097: calls and results without ids, linked by name only.
    request = json.loads(read(OLLAMA / "097_toolcall_result_roundtrip.txt").body)
    body = engine_body("/api/chat", request)
    assert body["tools"] == request["tools"]
    _, call, result = body["messages"]
    assert call == {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {
                "id": "call00001",
                "type": "function",
                "function": {"name": "get_weather", "arguments": '{"city":"Paris"}'},
            }
        ],
    }
    assert result == {
        "role": "tool",
        "content": "22C",
        "tool_call_id": "call00001",
        "name": "get_weather",
    }


def call(name: str, call_id: str = "", **arguments: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"function": {"name": name, "arguments": arguments}}
    return {"id": call_id, **made} if call_id else made


def linked(*given: dict[str, Any]) -> list[tuple[str, str]]:
    """The ids of calls and of results, as (kind, id)."""
    found = []
    for message in messages(*given):
        found += [("call", item["id"]) for item in message.get("tool_calls", ())]
        if message["role"] == "tool":
            found.append(("result", message["tool_call_id"]))
    return found


def test_results_find_their_calls_by_name() -> None:
    assert linked(
        {"role": "assistant", "content": "", "tool_calls": [call("a"), call("b"), call("a")]},
        {"role": "tool", "tool_name": "b", "content": "1"},
        {"role": "tool", "tool_name": "a", "content": "2"},
        {"role": "tool", "tool_name": "a", "content": "3"},
    ) == [
        ("call", "call00001"),
        ("call", "call00002"),
        ("call", "call00003"),
        ("result", "call00002"),
        ("result", "call00001"),
        ("result", "call00003"),
    ]


def test_results_keep_the_ids_they_have() -> None:
    assert linked(
        {"role": "assistant", "content": "", "tool_calls": [call("a", "x1"), call("b", "x2")]},
        {"role": "tool", "tool_call_id": "x2", "content": "1"},
        {"role": "tool", "content": "2"},
        {"role": "tool", "tool_call_id": "elsewhere", "content": "3"},
        {"role": "tool", "content": "4"},
    ) == [
        ("call", "x1"),
        ("call", "x2"),
        ("result", "x2"),
        ("result", "x1"),
        ("result", "elsewhere"),
        ("result", "call00001"),
    ]


@given(
    st.dictionaries(
        st.text(),
        st.none() | st.text() | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
    )
)
def test_arguments_come_through_as_text(arguments: dict[str, Any]) -> None:
    (message,) = messages(
        {"role": "assistant", "content": "", "tool_calls": [call("f", given=arguments)]}
    )
    text = message["tool_calls"][0]["function"]["arguments"]
    assert json.loads(text) == {"given": arguments}


def test_thinking_of_earlier_turns_goes_back_to_the_engine() -> None:
    (message,) = messages({"role": "assistant", "content": "4", "thinking": "2+2"})
    assert message == {"role": "assistant", "content": "4", "reasoning_content": "2+2"}


def test_tools_without_a_type_get_one() -> None:
    (tool,) = chat_body(tools=[{"function": WEATHER["function"]}])["tools"]
    assert tool == WEATHER


def test_keys_and_roles_match_without_case() -> None:
    body = engine_body(
        "/api/chat",
        {
            "Model": "asked",
            "MESSAGES": [{"Role": "USER", "Content": "hi"}],
            "Options": {"temperature": 1},
        },
    )
    assert body["messages"] == [{"role": "user", "content": "hi"}]
    assert body["temperature"] == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [5]},
        {"messages": [{"role": "user", "content": [1]}]},
        {"messages": [{"role": "user", "content": "x", "images": "x"}]},
        {"messages": [{"role": "user", "content": "x", "images": [1]}]},
        {"messages": [{"role": "assistant", "tool_calls": {}}]},
        {"messages": [{"role": "assistant", "tool_calls": [1]}]},
        {"messages": [{"role": "assistant", "tool_calls": [{"function": 1}]}]},
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": []}}]}]},
        {"tools": 1},
        {"top_logprobs": "x"},
    ],
)
def test_wrong_types_are_refused(fields: dict[str, Any]) -> None:
    refused = refusal("/api/chat", {**HELLO, **fields})
    assert refused.status == 400
    assert refused.message


@given(st.text(), st.text(min_size=1), st.text())
def test_any_text_reaches_the_engine(system: str, prompt: str, answer: str) -> None:
    given = [
        {"role": "system", "content": system},
        {"role": "user", "content": prompt},
        {"role": "assistant", "content": answer},
    ]
    assert messages(*given) == given
    sent = generate_body(prompt=prompt, system=system)["messages"]
    assert sent[-1] == {"role": "user", "content": prompt}
    assert generate_body(prompt=prompt, raw=True)["prompt"] == prompt


# --- generate ----------------------------------------------------------------------------------


def test_generate_is_a_chat_of_one_message() -> None:
    made = translation("/api/generate", {"model": "asked", "prompt": "p", "system": "s"})
    assert made.path == "/v1/chat/completions"
    assert json.loads(made.body)["messages"] == [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "p"},
    ]
    assert len(generate_body()["messages"]) == 1


def test_raw_generate_is_a_completion() -> None:
    made = translation("/api/generate", {"model": "asked", "prompt": "p", "raw": True})
    assert made.path == "/v1/completions"
    assert json.loads(made.body) == {
        "model": "engine-name",
        "prompt": "p",
        "stream": True,
        "stream_options": {"include_usage": True},
    }


@pytest.mark.parametrize(
    ("recording", "status"),
    [
        ("025_generate_suffix_unsupported", 400),
        ("039_generate_format_bad", 500),
        ("033_generate_bad_option_type", 500),
    ],
)
def test_recorded_refusals_of_generate(recording: str, status: int) -> None:
    exchange = read(OLLAMA / f"{recording}.txt")
    refused = refusal("/api/generate", json.loads(exchange.body))
    answer = json.loads(exchange.response.partition(b"\r\n\r\n")[2])
    assert (refused.status, refused.message) == (status, answer["error"])


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("tiny", "registry.ollama.ai/library/tiny:latest"),
        ("me/tiny:1b", "registry.ollama.ai/me/tiny:1b"),
        ("host.example/me/tiny", "host.example/me/tiny:latest"),
    ],
)
def test_suffix_is_refused_with_the_full_name(model: str, name: str) -> None:
    refused = refusal("/api/generate", {"model": model, "prompt": "p", "suffix": "s"})
    assert refused == ApiError(400, f"{name} does not support insert", ENGINE_LACKS_FEATURE)


@pytest.mark.parametrize(
    "fields",
    [{"template": "{{ .Prompt }}"}, {"context": [1, 2]}, {"raw": True, "images": [PNG]}],
)
def test_what_only_ollama_can_do_is_marked(fields: dict[str, Any]) -> None:
    refused = refusal("/api/generate", {"model": "asked", "prompt": "p", **fields})
    assert (refused.status, refused.code) == (400, ENGINE_LACKS_FEATURE)


@pytest.mark.parametrize("fields", [{"system": "s"}, {"template": "t"}, {"context": [1]}])
def test_raw_with_a_template_is_refused_like_ollama(fields: dict[str, Any]) -> None:
    refused = refusal("/api/generate", {"model": "asked", "prompt": "p", "raw": True, **fields})
    assert refused.message == "raw mode does not support template, system, or context"
    assert (refused.status, refused.code) == (400, "invalid_request")


def test_empty_context_is_none() -> None:
    assert generate_body(context=[], template="") == generate_body()
