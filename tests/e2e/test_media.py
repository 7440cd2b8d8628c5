"""Pictures and speech through the herd, from servers that nodes are told of by URL."""

import asyncio
import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.processes import Herd, Node
from tests.fakes.media import FakeMedia, png
from tests.fakes.models import model
from tests.fakes.ollama import FakeOllama
from tests.fakes.raw import Client, Response
from tests.fakes.wire import Reply, Request

PAINTER, LISTENER = "flux-schnell", "whisper-large"


class Rig:
    """A router, two nodes with an image server each, one of them with a transcription server."""

    def __init__(self, herd: Herd, painters: tuple[FakeMedia, FakeMedia], ear: FakeMedia) -> None:
        self.herd, self.painters, self.ear = herd, painters, ear

    def paint(self, **fields: Any) -> Response:
        asked = {"model": PAINTER, "prompt": "a red barn", "size": "64x64", **fields}
        return self.herd.call("POST", "/v1/images/generations", asked)

    @property
    def asked(self) -> list[dict[str, Any]]:
        return [one for painter in self.painters for one in painter.pictures]


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    folder = tmp_path_factory.mktemp("media")
    first, second, ear = FakeMedia(PAINTER), FakeMedia(PAINTER, "only-b"), FakeMedia()
    text = FakeOllama([model("llama3.2", capabilities=("completion",))])
    servers = (first.in_thread(), second.in_thread(), ear.in_thread(), text.in_thread())
    with servers[0], servers[1], servers[2], servers[3], Herd(folder).ready() as herd:
        url = f"http://127.0.0.1:{herd.port}"
        one = {
            "HERD_NODE_IMAGE_ENGINE": first.url,
            "HERD_NODE_SPEECH_ENGINE": f"{LISTENER}={ear.url}",
        }
        other = {"HERD_NODE_IMAGE_ENGINE": second.url}
        with (
            Node(folder, "a", url, [text.url], env=one),
            Node(folder, "b", url, [text.url], env=other),
        ):
            herd.wait_models(PAINTER, "only-b", LISTENER, "llama3.2:latest")
            herd.wait_status(lambda s: len(s["nodes"]) == 2, "both nodes")
            yield Rig(herd, (first, second), ear)


@pytest.fixture
def rig(standing: Rig) -> Iterator[Rig]:
    for server in (*standing.painters, standing.ear):
        server.delay_s, server.status, server.picture = 0.0, 200, png
        server.breaks_off = False
        server.pictures.clear()
        server.heard.clear()
        server.most_running = server.cancelled = 0
    yield standing
    standing.herd.check_alive()
    assert "Traceback" not in standing.herd.log()


def test_a_picture_as_base64(rig: Rig) -> None:
    answer = rig.paint(n=2, seed=7, steps=4, output_format="png")
    assert answer.status == 200, answer.body
    assert answer.header("X-Herd-Node") in ("a", "b")
    pictures = [base64.b64decode(item["b64_json"]) for item in answer.json()["data"]]
    assert pictures == [png(64, 64)] * 2
    asked = {"model": PAINTER, "prompt": "a red barn", "size": "64x64", "n": 2, "seed": 7}
    assert rig.asked == [
        {**asked, "steps": 4, "output_format": "png", "response_format": "b64_json"}
    ]


def test_a_picture_as_a_url(rig: Rig) -> None:
    base = f"http://127.0.0.1:{rig.herd.port}"
    body = {"model": PAINTER, "prompt": "a barn", "size": "64x64", "response_format": "url"}
    host = {"Host": base.removeprefix("http://")}
    answer = rig.herd.call("POST", "/v1/images/generations", body, headers=host)
    (item,) = answer.json()["data"]
    assert item["url"].startswith(base)
    picture = rig.herd.call("GET", item["url"].removeprefix(base))
    assert (picture.status, picture.header("Content-Type")) == (200, "image/png")
    assert picture.body == png(64, 64)
    assert rig.herd.call("GET", "/v1/images/files/guessed.png").status == 404


def test_our_own_path_answers_with_the_picture(rig: Rig) -> None:
    body = {"model": PAINTER, "prompt": "a barn", "width": 64, "height": 128, "steps": 2}
    answer = rig.herd.call("POST", "/api/generate-image", body)
    assert (answer.status, answer.header("Content-Type")) == (200, "image/png")
    assert answer.body == png(64, 128)
    assert rig.asked[0]["size"] == "64x128"
    assert "width" not in rig.asked[0]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"prompt": ""}, "prompt is required"),
        ({"model": None}, "model is required"),
        ({"n": 11}, "n must be a whole number from 1 to 10"),
        ({"size": "big"}, "size must be WIDTHxHEIGHT"),
        ({"size": "20x20"}, "sides from 64 to 4096"),
        ({"response_format": "png"}, "response_format must be"),
        ({"steps": 0}, "steps must be a whole number"),
        ({"model": "llama3.2"}, "model 'llama3.2' makes no pictures"),
    ],
)
def test_a_wrong_request_for_a_picture(rig: Rig, fields: dict[str, Any], words: str) -> None:
    answer = rig.paint(**fields)
    assert answer.status == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert words in answer.json()["error"]["message"]
    assert rig.asked == []


def test_an_unknown_model(rig: Rig) -> None:
    answer = rig.paint(model="nobody-has-it")
    assert answer.status == 404
    assert answer.json()["error"]["message"] == "model 'nobody-has-it' not found"


def test_a_failed_picture_is_made_elsewhere(rig: Rig) -> None:
    rig.painters[0].status = 500
    answers = [rig.paint() for _ in range(3)]
    assert [answer.status for answer in answers] == [200] * 3
    assert {answer.header("X-Herd-Node") for answer in answers} == {"b"}


def test_what_is_no_picture_is_made_elsewhere(rig: Rig) -> None:
    rig.painters[0].picture = lambda *_: b"GIF89a"
    assert [rig.paint().header("X-Herd-Node") for _ in range(3)] == ["b"] * 3
    rig.painters[1].picture = lambda *_: b"no picture"
    assert rig.paint().status == 502


def test_pictures_wait_for_the_one_device(rig: Rig) -> None:
    rig.painters[1].delay_s = 0.4
    body = {"model": "only-b", "prompt": "a barn", "size": "64x64"}
    clients = [Client(rig.herd.port) for _ in range(3)]
    for client in clients:
        client.ask("POST", "/v1/images/generations", body)
    assert [client.read().status for client in clients] == [200] * 3
    for client in clients:
        client.close()
    assert rig.painters[1].most_running == 1


def test_a_client_that_leaves_stops_the_picture(rig: Rig) -> None:
    rig.painters[1].delay_s = 30
    client = Client(rig.herd.port)
    body = {"model": "only-b", "prompt": "a barn", "size": "64x64"}
    client.ask("POST", "/v1/images/generations", body)
    rig.painters[1].wait_for(lambda p: p.running == 1, 5, "the picture to begin")
    client.close()
    rig.painters[1].wait_for(lambda p: p.running == 0, 1, "the picture to be given up")
    assert rig.painters[1].cancelled == 1


class PaintingOllama(FakeOllama):
    """An Ollama whose one model makes pictures: progress, then a last line with the picture."""

    PICTURE = base64.b64encode(png(16, 16) + b"\0" * 3_000_000).decode()
    load_s = step_s = 0.0

    async def _answer(self, request: Request, reply: Reply) -> None:
        if request.path != "/api/generate":
            await super()._answer(request, reply)
            return
        asked = json.loads(request.body)
        self.state.requests.append((request.method, request.target, request.headers, request.body))
        steps = asked.get("steps", 4)
        lines: list[dict[str, Any]] = [{"completed": n, "total": steps} for n in range(1, steps)]
        lines = lines if asked.get("stream", True) else []
        lines.append({"done": True, "done_reason": "stop", "image": self.PICTURE})
        await asyncio.sleep(self.load_s)
        reply.begin(200, "application/x-ndjson")
        for line in lines:
            named = {"model": asked["model"], "response": "", "done": False, **line}
            await reply.chunk(json.dumps(named, separators=(",", ":")).encode() + b"\n")
            await asyncio.sleep(self.step_s)
        await reply.end()


@pytest.fixture(scope="module")
def ollama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Herd, PaintingOllama]]:
    folder = tmp_path_factory.mktemp("ollama-image")
    engine = PaintingOllama([model("x/z-image-turbo", capabilities=("image",))])
    with (
        engine.in_thread(),
        Herd(folder).ready() as herd,
        Node(folder, "mac", f"http://127.0.0.1:{herd.port}", [engine.url]),
    ):
        herd.wait_models("x/z-image-turbo:latest")
        yield herd, engine


def test_a_picture_of_ollama_s_own(ollama: tuple[Herd, PaintingOllama]) -> None:
    herd, engine = ollama
    asked = {"model": "x/z-image-turbo", "prompt": "a barn", "size": "64x128", "steps": 3}
    answer = herd.call("POST", "/v1/images/generations", {**asked, "seed": 9})
    assert answer.status == 200, answer.body[:300]
    assert answer.json()["data"] == [{"b64_json": engine.PICTURE}]
    sent = json.loads(engine.state.requests[-1][3])
    assert (sent["width"], sent["height"], sent["steps"]) == (64, 128, 3)
    assert (sent["options"], sent["stream"]) == ({"seed": 9}, False)
    several = herd.call("POST", "/v1/images/generations", {**asked, "n": 2})
    assert several.status == 400
    assert "one picture a request" in several.json()["error"]["message"]
    assert herd.call("GET", "/api/image-models").json()["models"][0]["nodes"] == ["mac"]


@pytest.mark.parametrize("stream", [True, False])
def test_ollama_s_own_path_passes_pictures(
    ollama: tuple[Herd, PaintingOllama], *, stream: bool
) -> None:
    herd, engine = ollama
    asked = {"model": "x/z-image-turbo", "prompt": "a barn", "width": 64, "stream": stream}
    answer = herd.call("POST", "/api/generate", asked)
    assert answer.status == 200
    lines = answer.lines()
    assert lines[-1]["image"] == engine.PICTURE
    assert len(lines) == (4 if stream else 1)
    if stream:
        assert lines[0]["total"] == 4


def test_a_slow_picture_of_ollama_s_is_not_started_twice(tmp_path: Path) -> None:
    """Where a text would be tried elsewhere for its silence, twice: at its start and within it."""
    one = PaintingOllama([model("x/z-image-turbo", capabilities=("image",))])
    two = PaintingOllama([model("x/z-image-turbo", capabilities=("image",))])
    one.load_s = two.load_s = 3.0
    one.step_s = two.step_s = 2.5
    limits = {
        "HERD_HEDGE_FLOOR_S": "0.4",
        "HERD_HEDGE_CEILING_S": "1",
        "HERD_STALL_FLOOR_S": "0.4",
        "HERD_STALL_CEILING_S": "1",
    }
    with one.in_thread(), two.in_thread(), Herd(tmp_path, env=limits).ready() as herd:
        url = f"http://127.0.0.1:{herd.port}"
        with Node(tmp_path, "a", url, [one.url]), Node(tmp_path, "b", url, [two.url]):
            herd.wait_status(lambda s: len(s["nodes"]) == 2, "both nodes")
            herd.wait_models("x/z-image-turbo:latest")
            asked = {"model": "x/z-image-turbo", "prompt": "a barn", "steps": 2}
            answer = herd.call("POST", "/api/generate", asked, timeout_s=30)
    assert answer.status == 200
    assert answer.lines()[-1]["image"] == PaintingOllama.PICTURE
    assert answer.header("X-Herd-Attempts") == "1"
    started = [r for engine in (one, two) for r in engine.state.requests if b"barn" in r[3]]
    assert len(started) == 1


def form(fields: Mapping[str, str], file: bytes | None, name: str = "file") -> tuple[str, bytes]:
    """Content type and body of a multipart form, the file first, as the npm client sends it."""
    parts = []
    if file is not None:
        head = f'Content-Disposition: form-data; name="{name}"; filename="speech.wav"'
        parts.append(f"{head}\r\nContent-Type: audio/wav\r\n\r\n".encode() + file)
    for key, value in fields.items():
        parts.append(f'Content-Disposition: form-data; name="{key}"\r\n\r\n{value}'.encode())
    body = b"".join(b"--edge\r\n" + part + b"\r\n" for part in parts) + b"--edge--\r\n"
    return "multipart/form-data; boundary=edge", body


def say(rig: Rig, path: str, sent: tuple[str, bytes]) -> Response:
    return rig.herd.call("POST", path, sent[1], headers={"Content-Type": sent[0]}, timeout_s=60)


@pytest.mark.parametrize("size", [3000, 5_000_000])
def test_a_recording(rig: Rig, size: int) -> None:
    sound = bytes(range(250)) * (size // 250)
    sent = form({"model": LISTENER, "language": "en"}, sound)
    answer = say(rig, "/v1/audio/transcriptions", sent)
    assert answer.status == 200, answer.body
    assert answer.json() == {"text": f"{size} bytes of speech.wav"}
    (heard,) = rig.ear.heard
    assert heard.sha256 == hashlib.sha256(sound).hexdigest()
    assert heard.fields == {"model": LISTENER, "language": "en"}
    assert list((rig.herd.home / "uploads").glob("*")) == []


def test_another_format_passes(rig: Rig) -> None:
    sent = form({"model": LISTENER, "response_format": "srt"}, b"x" * 100)
    answer = say(rig, "/v1/audio/translations", sent)
    assert (answer.status, answer.body) == (200, b"100 bytes of speech.wav\n")
    assert rig.ear.heard[0].path == "/v1/audio/translations"


def test_a_picture_to_change_goes_to_a_server_for_pictures(rig: Rig) -> None:
    sent = form({"model": PAINTER, "prompt": "more snow"}, png(), "image")
    answer = say(rig, "/v1/images/edits", sent)
    assert answer.json() == {"text": f"{len(png())} bytes of speech.wav"}
    (heard,) = [one for painter in rig.painters for one in painter.heard]
    assert (heard.path, heard.fields["prompt"]) == ("/v1/images/edits", "more snow")
    missing = say(rig, "/v1/images/edits", form({"model": PAINTER}, None))
    assert "image is required" in missing.json()["error"]["message"]


def test_a_transcript_as_a_stream(rig: Rig) -> None:
    sent = form({"model": LISTENER, "stream": "true"}, b"x" * 100)
    answer = say(rig, "/v1/audio/transcriptions", sent)
    assert answer.header("Content-Type") == "text/event-stream"
    assert b"transcript.text.done" in answer.body
    assert b"error" not in answer.body
    rig.ear.breaks_off = True
    answer = say(rig, "/v1/audio/transcriptions", sent)
    assert b"the answer broke off on node 'a'" in answer.body


def test_our_own_path_takes_the_field_audio(rig: Rig) -> None:
    answer = say(rig, "/api/transcribe", form({"model": LISTENER}, b"x" * 100, "audio"))
    assert answer.json() == {"text": "100 bytes of speech.wav"}


@pytest.mark.parametrize(
    ("sent", "status", "words"),
    [
        (form({"model": LISTENER}, None), 400, "file is required"),
        (form({"model": LISTENER}, b""), 400, "the file is empty"),
        (form({}, b"x"), 400, "model is required"),
        (form({"model": LISTENER, "response_format": "mp3"}, b"x"), 400, "must be one of"),
        (form({"model": LISTENER, "prompt": "x" * 2**20}, b"x"), 413, "the form's fields"),
        (form({"model": PAINTER}, b"x"), 400, "does not write down speech"),
        (form({"model": "llama3.2"}, b"x"), 400, "does not write down speech"),
        (form({"model": "nobody"}, b"x"), 404, "model 'nobody' not found"),
        (("application/json", b"{}"), 400, "multipart/form-data"),
        (("multipart/form-data", b"{}"), 400, "no multipart form"),
        (("multipart/form-data; boundary=edge", b"--ed"), 400, "no multipart form"),
    ],
)
def test_a_wrong_form(rig: Rig, sent: tuple[str, bytes], status: int, words: str) -> None:
    answer = say(rig, "/v1/audio/transcriptions", sent)
    assert answer.status == status, answer.body
    assert words in answer.json()["error"]["message"]
    assert rig.ear.heard == []


def test_kinds_are_told(rig: Rig) -> None:
    listed = {m["id"]: m.get("kind") for m in rig.herd.call("GET", "/v1/models").json()["data"]}
    assert listed[PAINTER] == "image"
    assert listed[LISTENER] == "speech"
    assert listed["llama3.2:latest"] is None
    fleet = rig.herd.call("GET", "/fleet/models").json()["models"]
    kinds = {one["model"]["name"]: one["kind"] for one in fleet}
    assert kinds[f"{PAINTER}:latest"] == "image"
    assert kinds[f"{LISTENER}:latest"] == "speech"
    assert kinds["llama3.2:latest"] == "text"
    (entry, other) = rig.herd.call("GET", "/api/image-models").json()["models"]
    assert entry == {"name": PAINTER, "type": "image", "nodes": ["a", "b"]}
    assert other["name"] == "only-b"


def test_memory_stays_flat_under_a_long_recording(rig: Rig) -> None:
    client = Client(rig.herd.port, timeout_s=120)
    size, piece = 500 * 10**6, b"\x07" * 10**6
    head = b'--edge\r\nContent-Disposition: form-data; name="file"; filename="long.wav"\r\n\r\n'
    model_part = b'--edge\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-large'
    tail = b"\r\n" + model_part + b"\r\n--edge--\r\n"
    before = rig.herd.rss_bytes()
    length = len(head) + size + len(tail)
    client.send(
        b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: herd\r\n"
        b"Content-Type: multipart/form-data; boundary=edge\r\n"
        b"Content-Length: %d\r\n\r\n" % length + head
    )
    most = before
    for _ in range(size // len(piece)):
        client.send(piece)
        most = max(most, rig.herd.rss_bytes())
    client.send(tail)
    answer = client.read()
    client.close()
    assert answer.json() == {"text": f"{size} bytes of long.wav"}
    assert max(most, rig.herd.rss_bytes()) - before < 40 * 2**20
