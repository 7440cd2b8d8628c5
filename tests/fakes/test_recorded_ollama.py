"""The fake Ollama against the real one: recorded requests are sent to it, answers compared."""

from collections.abc import Iterator

import pytest

from tests.fakes.ollama import FakeOllama
from tests.fakes.raw import Response, exchange
from tests.fakes.recordings import OLLAMA, Recording, read_all
from tests.fakes.replay import parse_response
from tests.fakes.shapes import body_shape, error_text
from tests.fakes.state import Scripted

NOT_CLAIMED = {
    "012_show": "the real answer lists every tensor and setting of a real file",
    "014_show_name_field": "as 012",
    "080_show_embed_model": "as 012",
    "090_show_full": "as 012",
    "034_generate_logprobs": "no logprobs",
    "062_chat_logprobs_stream": "no logprobs",
    "154_v1_chat_logprobs": "no logprobs",
    "052_chat_images_unsupported": "no image models",
    "053_chat_images_bad_base64": "no image models",
    "160_v1_chat_image_unsupported": "no image models",
    "161_v1_chat_image_http_url": "no image models",
    "076_embed_too_long_truncate_false": "no context limit",
    "311_ctx_overflow_truncate_false": "no context limit",
    "179_v1_audio_transcriptions_json": "no speech",
    "205_host_private_ip": "needs no more than 201",
    "321_runner_killed_midstream": "a fault: held by test_ollama_faults",
    "323_runner_killed_nostream": "a fault: held by test_ollama_faults",
    "324_runner_killed_while_loading": "a fault: held by test_ollama_faults",
    "325_v1_stream_runner_killed": "a fault: held by test_ollama_faults",
    "333_queuefull_other_model_1": "a full queue: held by test_ollama_scheduling",
    "335_queuefull_v1_2": "a full queue: held by test_ollama_scheduling",
    "335_queuefull_v1_3": "a full queue: held by test_ollama_scheduling",
    "353_ollama_frozen": "no answer was recorded",
    "355_sigterm_midstream": "a fault: held by test_ollama_faults",
    "420_chat_truncated_model_file": "no broken files",
    "421_v1_truncated_model_file": "no broken files",
    "422_generate_truncated_load": "no broken files",
    "423_chat_missing_blob": "no broken files",
    "424_show_missing_blob": "no broken files",
    "425_tags_missing_blob": "no broken files",
}

EMPTY_STATE = {"011_ps_empty", "064_ps_after_unload"}
TWO_LOADED = {"087_ps_embed_and_chat"}
FIVE_MODELS = {"005_get_tags", "006_head_tags"}
TOOL_CALLS = {
    "095_toolcall_stream",
    "096_toolcall_nostream",
    "155_v1_chat_tools_stream",
    "156_v1_chat_tools_nostream",
}
PLAIN_TEXT = {"097_toolcall_result_roundtrip"}

RECORDINGS = [r for r in read_all(OLLAMA) if r.name not in NOT_CLAIMED]


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeOllama]:
    with FakeOllama().in_thread() as running:
        yield running


def prepare(fake: FakeOllama, name: str) -> None:
    """Bring the fake into the state the recording was made in."""
    fake.reset()
    fake.runners.loaded.clear()
    if name in TOOL_CALLS:
        call = {"name": "get_weather", "arguments": {"city": "Paris"}}
        fake.script(Scripted(tool_calls=(call,)))
    if name in PLAIN_TEXT:
        fake.script(Scripted(tokens=("You", " are"), done_reason="length"))
    if "ps_" in name and name not in EMPTY_STATE:
        models = ("tiny", "tiny-embed") if name in TWO_LOADED else ("tiny",)
        for model in models:
            path = b"/api/embed" if "embed" in model else b"/api/generate"
            body = b'{"model":"%b","input":"x","prompt":"","stream":false}' % model.encode()
            head = b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
            assert exchange(fake.port, head % (path, len(body)) + body).status == 200


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda r: r.name)
def test_answers_as_recorded(fake: FakeOllama, recording: Recording) -> None:
    prepare(fake, recording.name)
    removed = {}
    if recording.name in FIVE_MODELS:
        for key in ("tiny-full:latest", "tiny-embed:latest"):
            removed[key] = fake.models.pop(key)
    try:
        said = exchange(fake.port, recording.request)
    finally:
        fake.models.update(removed)
    real = parse_response(recording.response, recording.method)
    assert (said.status, said.reason) == (real.status, real.reason)
    assert said.framing == real.framing
    for name in ("content-type", "allow", "location", "cache-control", "connection", "vary"):
        assert said.header(name) == real.header(name), name
    assert header_names(said) == header_names(real)
    if real.status >= 400:
        assert error_text(said.body) == error_text(real.body)
    else:
        content_type = real.header("content-type")
        assert body_shape(content_type, said.body) == body_shape(content_type, real.body)
        assert said.body.endswith(b"\n") == real.body.endswith(b"\n")


def header_names(response: Response) -> list[str]:
    """Their order too: it is what the client's parser sees. Vary may be joined or repeated."""
    return [name for name, _ in response.headers if name != "Vary"]
