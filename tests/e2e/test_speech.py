"""A real recogniser hears a synthetic voice, through the herd."""

import hashlib
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from tests.e2e.processes import Herd, Node
from tests.e2e.test_media import form
from tests.fakes.raw import Response
from tests.interop.environments import python_of

MODEL = "pocketsphinx"
NODES: list[Node] = []
WORDS = "yes no yes"


@pytest.fixture(scope="module")
def herd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Herd]:
    folder = tmp_path_factory.mktemp("speech")
    inside = python_of("speech", "--no-deps").parents[1]
    packages = next(inside.glob("[Ll]ib*/**/site-packages"))
    only = folder / "packages"
    only.mkdir()
    (only / "pocketsphinx").symlink_to(packages / "pocketsphinx")
    with Herd(folder).ready() as herd:
        url = f"http://127.0.0.1:{herd.port}"
        env = {"PYTHONPATH": str(only)}
        with Node(folder, "ears", url, ["http://127.0.0.1:9"], env=env) as node:
            herd.wait_models(MODEL)
            NODES.append(node)
            yield herd
            NODES.clear()
        assert list((node.home / "recordings").glob("*")) == []
        assert "Traceback" not in node.log()


@pytest.fixture(scope="module")
def voice(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A voice that says WORDS."""
    espeak = shutil.which("espeak-ng")
    if espeak is None:
        pytest.skip("espeak-ng is not installed")
    path = tmp_path_factory.mktemp("voice") / "voice.wav"
    subprocess.run([espeak, "-v", "en-us", "-s", "120", "-w", str(path), WORDS], check=True)
    return path.read_bytes()


def ask(herd: Herd, sound: bytes, path: str = "/v1/audio/transcriptions", **more: str) -> Response:
    content_type, body = form({"model": MODEL, **more}, sound)
    return herd.call("POST", path, body, headers={"Content-Type": content_type}, timeout_s=60)


def test_it_hears_what_was_said(herd: Herd, voice: bytes) -> None:
    answer = ask(herd, voice)
    assert answer.status == 200, answer.body
    assert answer.json() == {"text": WORDS}
    assert answer.header("X-Herd-Node") == "ears"
    assert ask(herd, voice, "/api/transcribe").json() == {"text": WORDS}


def test_in_every_format(herd: Herd, voice: bytes) -> None:
    assert ask(herd, voice, response_format="text").body == f"{WORDS}\n".encode()
    verbose = ask(herd, voice, response_format="verbose_json").json()
    assert verbose["text"] == WORDS
    assert 1 < verbose["duration"] < 4
    assert 0 <= verbose["segments"][0]["start"] < verbose["segments"][0]["end"] < 4
    srt = ask(herd, voice, response_format="srt")
    assert srt.body.startswith(b"1\n00:00:0")
    vtt = ask(herd, voice, response_format="vtt")
    assert (vtt.header("Content-Type"), vtt.body[:7]) == ("text/vtt; charset=utf-8", b"WEBVTT\n")


def test_times_of_words(herd: Herd, voice: bytes) -> None:
    wanted = {"timestamp_granularities[]": "word", "response_format": "verbose_json"}
    told = ask(herd, voice, **wanted).json()
    assert [one["word"] for one in told["words"]] == WORDS.split()
    times = [moment for one in told["words"] for moment in (one["start"], one["end"])]
    assert times == sorted(times)
    assert 0 <= times[0] < times[-1] <= told["duration"]
    assert "segments" not in told


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"timestamp_granularities[]": "word"}, "needs response_format verbose_json"),
        (
            {"timestamp_granularities[]": "letter", "response_format": "verbose_json"},
            "must be of segment, word",
        ),
    ],
)
def test_times_that_cannot_be_told(
    herd: Herd, voice: bytes, more: dict[str, str], words: str
) -> None:
    answer = ask(herd, voice, **more)
    assert answer.status == 400
    assert words in answer.json()["error"]["message"]


@pytest.mark.parametrize("sound", [b"GIF89a" * 20, hashlib.sha256(b"x").digest() * 50])
def test_what_is_no_recording(herd: Herd, sound: bytes) -> None:
    answer = ask(herd, sound)
    assert answer.status == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert "no WAV recording" in answer.json()["error"]["message"]


def test_a_long_recording_is_nowhere_in_memory(herd: Herd) -> None:
    (node,) = NODES
    before = herd.rss_bytes(), node.rss_bytes()
    answer = ask(herd, bytes(150 * 10**6))
    assert answer.status == 400
    assert max(herd.rss_bytes() - before[0], node.rss_bytes() - before[1]) < 40 * 2**20


def test_it_does_not_translate(herd: Herd, voice: bytes) -> None:
    answer = ask(herd, voice, "/v1/audio/translations")
    assert answer.status == 400
    assert "does not translate" in answer.json()["error"]["message"]
