import json
from typing import Any

import pytest

from ollama_herd.core.request import OutcomeKind
from tests.api.shapes import recorded_lines, shape
from tests.api.translations import (
    JSON,
    answered,
    chat,
    delta,
    events,
    lines,
)


def piece(index: int | None, name: str | None = None, arguments: Any = None, **more: Any) -> Any:
    function = {"name": name, "arguments": arguments}
    return {**({} if index is None else {"index": index}), "function": function, **more}


def test_tool_call_comes_whole_and_as_recorded() -> None:
    recorded = recorded_lines("095_toolcall_stream")
    stream = events(
        delta(role="assistant", content=None),
        delta(tool_calls=[piece(0, "get_weather", "", id="call_abc", type="function")]),
        delta(tool_calls=[piece(0, None, '{"city":')]),
        delta(tool_calls=[piece(0, None, ' "Par<is>"}')]),
        delta("tool_calls"),
        {"choices": [], "usage": {"prompt_tokens": 109, "completion_tokens": 31}},
    )
    first, last = answered(chat(), stream).splitlines()
    assert shape(first) == shape(recorded[0])
    assert b'"arguments":{"city":"Par\\u003cis\\u003e"}' in first
    assert json.loads(first)["message"]["tool_calls"] == [
        {
            "id": "call_abc",
            "function": {"index": 0, "name": "get_weather", "arguments": {"city": "Par<is>"}},
        }
    ]
    assert shape(last) == shape(recorded[-1])
    assert json.loads(last)["done_reason"] == "stop"


def test_tool_call_of_a_whole_answer() -> None:
    (recorded,) = recorded_lines("096_toolcall_nostream")
    call = piece(None, "get_weather", '{"city":"Paris"}', id="call_abc", type="function")
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    body = json.dumps({"choices": [{"finish_reason": "tool_calls", "message": message}]}).encode()
    assert shape(answered(chat(stream=False), body, JSON)) == shape(recorded)


def calls(*pieces: Any, finish: str = "tool_calls") -> list[Any]:
    """Index, name and arguments of the calls in the client's stream."""
    stream = events(*(delta(tool_calls=[item]) for item in pieces), delta(finish))
    found = lines(answered(chat(), stream))
    return [
        tuple(call["function"].values())
        for line in found
        for call in line.get("message", {}).get("tool_calls", ())
    ]


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (
            [piece(0, "a", "{"), piece(1, "b", '{"x":1'), piece(0, None, "}"), piece(1, None, "}")],
            [(0, "a", {}), (1, "b", {"x": 1})],
        ),
        (
            [
                piece(None, "a", '{"x"', id="1"),
                piece(None, None, ":2}"),
                piece(None, "b", "{}", id="2"),
            ],
            [(0, "a", {"x": 2}), (1, "b", {})],
        ),
        ([piece(0, "a", {"x": {"y": 1}})], [(0, "a", {"x": {"y": 1}})]),
        ([piece(0, "a", None)], [(0, "a", {})]),
        ([piece(0, "a", '"{\\"x\\":1}"')], [(0, "a", {"x": 1})]),
        ([piece(3, "a", "{}")], [(3, "a", {})]),
    ],
)
def test_pieces_of_tool_calls(pieces: list[Any], expected: list[Any]) -> None:
    assert calls(*pieces) == expected


def test_numbers_in_arguments_keep_their_value() -> None:
    number = 123456789012345678901234567890
    assert calls(piece(0, "a", f'{{"n":{number},"f":1.0}}')) == [(0, "a", {"n": number, "f": 1.0})]


@pytest.mark.parametrize("arguments", ["[1]", "nonsense", '{"x":', "5"])
def test_arguments_that_are_no_object_are_an_error(arguments: str) -> None:
    made = chat()
    stream = events(delta(tool_calls=[piece(0, "a", arguments)]), delta("tool_calls"))
    output = answered(made, stream)
    assert "tool" in json.loads(output)["error"]
    assert (made.status, made.failed) == (502, OutcomeKind.GARBAGE)


def test_tool_call_cut_by_the_token_limit_is_left_out() -> None:
    whole, cut = piece(0, "a", "{}"), piece(1, "b", '{"x":')
    assert calls(whole, cut, finish="length") == [(0, "a", {})]
