"""A stream cut anywhere and continued reads as if it had never been cut."""

import itertools
import json

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ollama_herd.api.continuation import Said, continued, read_said, why_not
from ollama_herd.api.endpoints import INFERENCE
from ollama_herd.api.parse import read_request
from ollama_herd.api.seam import ECHO_CHARS, seam
from ollama_herd.core.node import EngineKind
from tests.fakes.dialects import (
    AnthropicVoice,
    OllamaVoice,
    OpenAIChatVoice,
    OpenAICompletionVoice,
)
from tests.fakes.models import model
from tests.fakes.state import Settings
from tests.fakes.turn import Token, Turn

WORDS = ["The", " moon", " is <b>", " ünd", "\n\n", ' "so"', " に", "行", " a", " on", " on", " &c"]
CHAT = {"model": "m", "messages": [{"role": "user", "content": "Say hi"}]}
PROMPT = {"model": "m", "prompt": "Say hi"}
BODIES = {
    "/api/chat": CHAT,
    "/api/generate": PROMPT,
    "/v1/chat/completions": {**CHAT, "stream": True, "stream_options": {"include_usage": True}},
    "/v1/completions": {**PROMPT, "stream": True, "stream_options": {"include_usage": True}},
    "/v1/messages": {**CHAT, "stream": True, "max_tokens": 90},
}
VOICES = {
    "/api/chat": OllamaVoice(is_chat=True),
    "/api/generate": OllamaVoice(is_chat=False),
    "/v1/chat/completions": OpenAIChatVoice(),
    "/v1/completions": OpenAICompletionVoice(),
    "/v1/messages": AnthropicVoice(),
}
PATHS = st.sampled_from(sorted(BODIES))
TEXTS = st.lists(st.sampled_from(WORDS), min_size=1, max_size=12)


def stream(path, words, *, prompt_tokens=10, body=None, thinking=(), number=1):
    """The chunks of a whole answer, one a token and then the ending."""
    tokens = [*(Token(w, is_thinking=True) for w in thinking), *(Token(w) for w in words)]
    turn = Turn(body or BODIES[path], model("m"), tokens, "stop", prompt_tokens, is_frozen=True)
    turn.number = lambda below: (700 + number) % below
    chunks = []
    for token in tokens:
        turn.said.append(token)
        chunks.append(b"".join(VOICES[path].token(turn, token)))
    return [*chunks, b"".join(VOICES[path].ending(turn))]


def read(path, body):
    """(text, output tokens, whether the end marker is there, frames) as a client reads them."""
    endpoint = INFERENCE[path.encode()]
    said = read_said(endpoint, body)
    frames = [
        json.loads(line.removeprefix(b"data: "))
        for line in body.split(b"\n")
        if line.removeprefix(b"data: ").startswith(b"{")
    ]
    counts = [f.get("eval_count") for f in frames if "eval_count" in f]
    counts += [f["usage"].get("completion_tokens") for f in frames if f.get("usage")]
    counts += [f["usage"].get("output_tokens") for f in frames if f.get("usage")]
    found = [count for count in counts if count]
    ends = (b'"done":true', b"data: [DONE]", b'"type":"message_stop"')
    is_whole = any(end in body for end in ends)
    return said.text, found[-1] if found else 0, is_whole, frames


def sew(path, first, second, how=None, split=None):
    """The client's bytes after `first` broke off and `second` went on."""
    endpoint = INFERENCE[path.encode()]
    said = read_said(endpoint, first)
    how = how or continued(endpoint, parsed(path), said, EngineKind.OLLAMA)
    sewing = seam(endpoint, how, said, 1.5)
    output = b""
    places = [0, *(split or ()), len(second)]
    for start, end in itertools.pairwise(places):
        output += sewing.feed(second[start:end])
    return output, sewing


def parsed(path, **more):
    body = json.dumps({**BODIES[path], **more}).encode()
    return read_request(INFERENCE[path.encode()], body)


def target(path):
    said = Said(text="x", pieces=1)
    return continued(INFERENCE[path.encode()], parsed(path), said, EngineKind.OLLAMA).endpoint.path


@settings(max_examples=150)
@given(PATHS, TEXTS, st.data())
def test_a_cut_answer_reads_on(path, words, data):
    """But where a model says once more all that it has said so far: nobody can tell that from an
    engine that repeats it.
    """
    cut = data.draw(st.integers(0, len(words)))
    before, behind = "".join(words[:cut]), "".join(words[cut:])
    assume(cut < 2 or len(before) < ECHO_CHARS or not behind.startswith(before))
    whole = stream(path, words)
    first = b"".join(whole[:cut])
    said = read_said(INFERENCE[path.encode()], first)
    assert said.text == "".join(words[:cut])
    assert said.pieces == cut
    source = target(path) if cut else path
    second = b"".join(stream(source, words[cut:], prompt_tokens=10 + cut, number=2))
    places = sorted(data.draw(st.lists(st.integers(0, len(second)), max_size=4)))
    output, sewing = sew(path, first, second, split=places)
    if cut < len(words):
        assert sewing.is_done
        assert not sewing.failed
        text, tokens, is_whole, frames = read(path, first + output)
        assert is_whole
        assert text == "".join(words) == sewing.said().text
        assert tokens == len(words)
        check_opened_once(path, frames)


def check_opened_once(path, frames):
    if path.startswith("/v1/") and path != "/v1/messages":
        assert len({(f["id"], f["model"], f["object"]) for f in frames}) == 1
        roles = [c for f in frames for c in f["choices"] if "role" in c.get("delta", {})]
        assert len(roles) == (path == "/v1/chat/completions")
    if path == "/v1/messages":
        kinds = [f["type"] for f in frames]
        for kind in ("message_start", "content_block_start", "content_block_stop", "message_stop"):
            assert kinds.count(kind) == 1
    if path == "/api/generate":
        assert all("response" in f and "message" not in f for f in frames)


@settings(max_examples=100)
@given(PATHS, st.data(), st.sampled_from(["echo", "anew"]))
def test_what_is_said_twice_is_left_out(path, data, how):
    words = WORDS
    cut = data.draw(st.integers(4, len(words) - 1))
    first = b"".join(stream(path, words)[:cut])
    begun = "".join(words[:cut])
    again = [begun + words[cut], *words[cut + 1 :]] if how == "echo" else words
    second = b"".join(stream(target(path), again, prompt_tokens=10 + cut, number=2))
    output, sewing = sew(path, first, second)
    text, tokens, is_whole, _ = read(path, first + output)
    assert is_whole
    assert not sewing.failed
    assert text == "".join(words)
    assert tokens == len(words)


@given(PATHS, st.data())
def test_any_byte_may_be_the_last(path, data):
    """A frame that is cut does not count; what reads as text is a beginning of the whole."""
    whole = b"".join(stream(path, WORDS))
    cut = data.draw(st.integers(0, len(whole)))
    said = read_said(INFERENCE[path.encode()], whole[:cut])
    assert "".join(WORDS).startswith(said.text)


@given(PATHS, st.binary(max_size=300))
def test_garbage_never_raises(path, junk):
    endpoint = INFERENCE[path.encode()]
    said = read_said(endpoint, junk)
    how = continued(endpoint, parsed(path), Said(text="begun", pieces=2), EngineKind.OLLAMA)
    sewing = seam(endpoint, how, said, 0.0)
    assert b"begun" not in sewing.feed(junk + b"\n\n")
    sewing.said()


@given(
    PATHS,
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=4),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "message",
                        "choices",
                        "delta",
                        "content",
                        "type",
                        "usage",
                        "done",
                        "text",
                        "response",
                        "content_block",
                        "finish_reason",
                        "index",
                    ]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    ),
)
def test_odd_frames_never_raise(path, value):
    endpoint = INFERENCE[path.encode()]
    data = json.dumps(value).encode()
    frame = data + b"\n" if path.startswith("/api/") else b"data: " + data + b"\n\n"
    said = read_said(endpoint, frame)
    how = continued(endpoint, parsed(path), Said(text="begun so far", pieces=2), EngineKind.OLLAMA)
    sewing = seam(endpoint, how, said, 0.0)
    sewing.feed(frame)
    sewing.said()


@pytest.mark.parametrize("path", sorted(BODIES))
@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"format": "json"}, "a format"),
        ({"response_format": {"type": "json_object"}}, "a format"),
        ({"logprobs": True}, "logprobs"),
        ({"think": True}, "thinking"),
        ({"thinking": {"type": "enabled", "budget_tokens": 9}}, "thinking"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_what_is_not_plain_text_is_not_continued(path, more, field):
    asked = parsed(path, **more)
    endpoint = INFERENCE[path.encode()]
    flags = (asked.has_tools, asked.has_format, asked.logprobs, bool(asked.think))
    reason = why_not(endpoint, asked, Said(text="so far", pieces=2))
    assert (field in reason) == any(flags)
    assert not why_not(endpoint, asked, Said())  # nothing was said: it is asked again


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize("is_plain", [True, False])
def test_several_choices_are_named(path, is_plain):
    endpoint, said = INFERENCE[path.encode()], Said("so far", 2, is_plain=is_plain)
    assert "(n)" in why_not(endpoint, parsed(path, n=2), said)
    assert "(n)" not in why_not(endpoint, parsed(path, n=1), said)
    assert not why_not(endpoint, parsed(path, n=2), Said())  # nothing was said: it is asked again


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions", "/v1/messages"])
def test_a_thought_is_more_than_text(path):
    first = b"".join(stream(path, WORDS, thinking=["hm"])[:3])
    endpoint = INFERENCE[path.encode()]
    assert why_not(endpoint, parsed(path), read_said(endpoint, first))


def test_embeddings_and_responses_are_not_continued():
    for path in (b"/api/embed", b"/v1/responses", b"/v1/embeddings"):
        assert why_not(INFERENCE[path], parsed("/api/chat"), Said())


def request_of(path, said, kind=EngineKind.OLLAMA, **more):
    how = continued(INFERENCE[path.encode()], parsed(path, **more), said, kind)
    return how if how is None else (how.endpoint.path, json.loads(how.parsed.body))


SAID = Said(text="The moon", pieces=2)
BEGUN = [*CHAT["messages"], {"role": "assistant", "content": "The moon"}]


def test_the_request_that_goes_on():
    assert request_of("/api/chat", SAID) == ("/api/chat", {**CHAT, "messages": BEGUN})
    path, body = request_of("/api/generate", SAID, system="Be brief")
    assert path == "/api/chat"
    assert body["messages"] == [{"role": "system", "content": "Be brief"}, *BEGUN]
    path, body = request_of("/api/generate", SAID, raw=True)
    assert (path, body["prompt"]) == ("/api/generate", "Say hiThe moon")
    path, body = request_of("/v1/completions", SAID)
    assert (path, body["messages"]) == ("/v1/chat/completions", BEGUN)
    path, body = request_of("/v1/completions", SAID, EngineKind.OPENAI)
    assert (path, body["prompt"]) == ("/v1/completions", "Say hiThe moon")
    assert request_of("/v1/messages", SAID)[1]["messages"] == BEGUN


def test_the_clients_bound_holds_for_both_parts():
    _, body = request_of("/api/chat", SAID, options={"num_predict": 10, "seed": 3})
    assert body["options"] == {"num_predict": 8, "seed": 3}
    assert request_of("/v1/messages", SAID, max_tokens=2)[1]["max_tokens"] == 1
    _, body = request_of("/api/chat", SAID, options={"num_predict": -1})
    assert body["options"] == {"num_predict": -1}


def test_an_answer_that_the_client_began_is_extended():
    begun = [*CHAT["messages"], {"role": "assistant", "content": "Well, "}]
    _, body = request_of("/api/chat", SAID, messages=begun)
    assert body["messages"] == [
        *CHAT["messages"],
        {"role": "assistant", "content": "Well, The moon"},
    ]


@pytest.mark.parametrize(
    ("path", "more"),
    [
        ("/v1/chat/completions", {"n": 2}),
        ("/v1/completions", {"prompt": ["a", "b"]}),
        ("/v1/completions", {"echo": True}),
        ("/v1/completions", {"suffix": "end"}),
        ("/api/generate", {"template": "{{ .Prompt }}"}),
        ("/api/generate", {"context": [1, 2]}),
        ("/api/generate", {"suffix": "end"}),
    ],
    ids=str,
)
def test_forms_that_cannot_go_on(path, more):
    assert request_of(path, SAID, **more) is None


def test_an_engines_error_ends_the_seam():
    first = b"".join(stream("/api/chat", WORDS)[:3])
    output, sewing = sew("/api/chat", first, b'{"error":"boom"}\n')
    assert (output, sewing.is_done) == (b"", False)
    assert sewing.failed
    first = b"".join(stream("/v1/chat/completions", WORDS)[:3])
    for junk in (b"proxy error: lost\n\n", b'data: {"error":{"message":"x"}}\n\n', b"data: {\n\n"):
        output, sewing = sew("/v1/chat/completions", first, junk)
        assert output == b""
        assert sewing.failed


def test_a_third_part_knows_the_first_two():
    whole = stream("/api/chat", WORDS)
    first, second = b"".join(whole[:3]), b"".join(stream("/api/chat", WORDS[3:])[:4])
    output, sewing = sew("/api/chat", first, second)
    assert not sewing.is_done
    said = sewing.said()
    assert said.text == "".join(WORDS[:7])
    assert said.pieces == 7
    assert msgspec.structs.replace(said, opening={}) == msgspec.structs.replace(
        read_said(INFERENCE[b"/api/chat"], first + output), opening={}
    )


def test_settings_of_the_fake_name_what_is_tested():
    assert Settings().continues == "on"
