"""Recognisers: found, kept warm, heard, bounded and ended. Their packages are stand-ins here."""

import asyncio
import json
import sys
import wave
from pathlib import Path

import pytest

from ollama_herd.agent.services.listener import Listener, ListeningFailed
from ollama_herd.agent.services.transcripts import Segment
from ollama_herd.clock import monotonic_s
from tests.agent.kitchen import environment, fetch, is_running
from tests.pace import in_time

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the stand-ins are POSIX scripts")

NAME = "qwen3-asr-0.6b"

PACKAGE = """
import os, sys, time, types
from pathlib import Path

LOG = Path(os.environ["STAND_IN_LOG"])

class Session:
    def __init__(self, model):
        print("loading", model)
        with LOG.open("a") as log:
            log.write(f"{os.getpid()} {model} {os.environ['HF_HUB_OFFLINE']}\\n")

    def transcribe(self, audio, *, context="", language=None, return_chunks=False):
        said = Path(audio).read_text()
        if said == "slow":
            time.sleep(60)
        if said == "die":
            sys.stderr.write("out of memory\\n")
            os._exit(3)
        if said == "noise":
            raise ValueError("no sound in it")
        if said == "odd":
            language = ["French"]
        chunks = [{"text": said, "start": 0.5, "end": 1.5, "chunk_index": 0, "language": language}]
        text = f"{said} {context}".strip()
        return types.SimpleNamespace(text=text, language=language, segments=None, chunks=chunks)
"""


def listener(folder: Path, within_s: float = 20) -> Listener:
    place = folder / "bin"
    place.mkdir()
    command = place / "mlx-qwen3-asr"
    command.write_text(f"#!{sys.executable}\nfrom mlx_qwen3_asr.cli import main\n")
    command.chmod(0o755)
    (folder / "lib").mkdir()
    (folder / "lib" / "mlx_qwen3_asr.py").write_text(PACKAGE)
    fetch(folder, "Qwen/Qwen3-ASR-0.6B")
    made = Listener(within_s, environment(folder, PYTHONPATH=str(folder / "lib")))
    assert NAME in [model.name for model in made.look()]
    return made


def spoken(folder: Path, text: str) -> dict[str, str]:
    path = folder / f"{text}.txt"
    path.write_text(text)
    return {"path": str(path), "language": "French", "prompt": "names"}


def started(folder: Path) -> list[int]:
    log = folder / "log"
    return [int(line.split()[0]) for line in log.read_text().splitlines()] if log.exists() else []


async def test_one_process_for_many_recordings(tmp_path: Path) -> None:
    ears = listener(tmp_path)
    for text in ("good", "day"):
        said = await ears.write_down(NAME, spoken(tmp_path, text))
        assert (said.text, said.language) == (f"{text} names", "French")
        assert (said.segments, said.duration) == ((Segment(0.5, 1.5, text),), 1.5)
    assert (tmp_path / "log").read_text().endswith(" Qwen/Qwen3-ASR-0.6B 1\n")
    (pid,) = started(tmp_path)
    await ears.close()
    assert not is_running(pid)


@pytest.mark.parametrize(
    ("recording", "reason", "status", "processes"),
    [
        ("noise", "no sound in it", 400, 1),
        ("odd", "answered in no known form", 500, 1),
        ("die", "out of memory", 500, 2),
    ],
)
async def test_what_cannot_be_written_down_says_why_and_the_next_one_is(
    tmp_path: Path, recording: str, reason: str, status: int, processes: int
) -> None:
    ears = listener(tmp_path)
    with pytest.raises(ListeningFailed, match=reason) as failed:
        await ears.write_down(NAME, spoken(tmp_path, recording))
    assert failed.value.status == status
    assert (await ears.write_down(NAME, spoken(tmp_path, "good"))).text == "good names"
    assert len(started(tmp_path)) == processes
    await ears.close()


async def test_a_recording_given_up_frees_the_device_at_once(tmp_path: Path) -> None:
    ears = listener(tmp_path)
    task = asyncio.ensure_future(ears.write_down(NAME, spoken(tmp_path, "slow")))
    deadline_s = monotonic_s() + 10
    while not started(tmp_path):
        assert monotonic_s() < deadline_s
        await asyncio.sleep(0.02)
    begun_s = monotonic_s()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert in_time(monotonic_s() - begun_s, 1)
    assert not any(map(is_running, started(tmp_path)))
    assert (await ears.write_down(NAME, spoken(tmp_path, "good"))).text == "good names"
    await ears.close()


async def test_a_recording_that_takes_too_long(tmp_path: Path) -> None:
    ears = listener(tmp_path, within_s=2)
    with pytest.raises(ListeningFailed, match="took longer than 2 s") as failed:
        await ears.write_down(NAME, spoken(tmp_path, "slow"))
    assert failed.value.status == 504
    assert not any(map(is_running, started(tmp_path)))
    await ears.close()


def test_a_script_of_uv_names_its_python(tmp_path: Path) -> None:
    ears = listener(tmp_path)
    head = f"#!/bin/sh\n'''exec' {sys.executable!r} \"$0\" \"$@\"\n' '''\n"
    (tmp_path / "bin" / "mlx-qwen3-asr").write_text(head)
    assert NAME in [model.name for model in ears.look()]


def test_without_weights_nothing_is_offered(tmp_path: Path) -> None:
    ears = listener(tmp_path)
    (link,) = tmp_path.glob("hub/*/snapshots/*/model.safetensors")
    link.unlink()
    assert NAME not in [model.name for model in ears.look()]
    assert ears.is_installed


def silence(path: Path, rate: int, channels: int, seconds: float) -> Path:
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(channels)
        sound.setsampwidth(2)
        sound.setframerate(rate)
        sound.writeframes(b"\1\0" * int(rate * channels * seconds))
    return path


@pytest.mark.parametrize(("rate", "channels"), [(16000, 1), (22050, 1), (44100, 2), (8000, 1)])
def test_sound_is_brought_to_what_models_hear(tmp_path: Path, rate: int, channels: int) -> None:
    from ollama_herd.agent.services import recogniser  # noqa: PLC0415

    path = str(silence(tmp_path / "a.wav", rate, channels, 2.5))
    samples = b"".join(recogniser._resampled(path))
    assert abs(len(samples) // 2 - 40_000) <= 2
    assert recogniser.duration_s(path) == 2.5
    assert json.dumps(recogniser.answered(lambda _: {"segments": []}, '{"path": "x"}'))
