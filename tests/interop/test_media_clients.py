"""The vendors' own packages ask for pictures and transcriptions, and give up in the middle."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent.kitchen import environment, fetch, install, is_running
from tests.e2e.processes import Herd, Node, wait_until
from tests.interop.environments import CLIENTS, node, node_modules, python_of, run
from tests.interop.test_sdks import steps

WORDS = "yes no yes"

EXPECTED = {
    "picture": [["PNG", True]] * 2,
    "picture_url": [["PNG", True], "image/png"],
    "picture_progress": [
        "image_generation.completed",
        ["PNG", True],
        "image_generation.progress",
        2,
    ],
    "transcript": WORDS,
    "transcript_text": f"{WORDS}\n",
    "kinds": [["pocketsphinx", "speech"], ["z-image-turbo", "image"]],
}
REASONS = {
    "picture_refused": (
        "size must be WIDTHxHEIGHT",
        "n must be a whole number from 1 to 10",
        "model 'nobody' not found",
        "model 'pocketsphinx' makes no pictures",
    ),
    "picture_given_up": (),
    "transcript_subtitles": ("WEBVTT",),
    "transcript_verbose": (WORDS.split(maxsplit=1)[0],),
    "transcript_refused": (
        "400",
        "the file is empty",
        "model 'x' not found",
        "model 'z-image-turbo' does not write down speech",
    ),
}


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Herd, Path]]:
    """A herd whose one node makes pictures and hears."""
    espeak = shutil.which("espeak-ng")
    if espeak is None:
        pytest.skip("espeak-ng is not installed")
    folder = tmp_path_factory.mktemp("media")
    sound = folder / "voice.wav"
    subprocess.run([espeak, "-v", "en-us", "-s", "120", "-w", str(sound), WORDS], check=True)
    install(folder, "mflux-generate-z-image-turbo")
    fetch(folder, "Tongyi-MAI/Z-Image-Turbo")
    inside = python_of("speech", "--no-deps").parents[1]
    (folder / "lib").mkdir()
    packages = next(inside.glob("[Ll]ib*/**/site-packages"))
    (folder / "lib" / "pocketsphinx").symlink_to(packages / "pocketsphinx")
    env = dict(environment(folder, STAND_IN_STEP_S="0.05"))
    env["PYTHONPATH"] = os.pathsep.join([env["PYTHONPATH"], str(folder / "lib")])
    with Herd(folder).ready() as herd:
        url = f"http://127.0.0.1:{herd.port}"
        with Node(folder, "both", url, ["http://127.0.0.1:9"], env=env):
            herd.wait_models("z-image-turbo", "pocketsphinx")
            yield herd, folder
        assert "Traceback" not in herd.log()


def check(rig: tuple[Herd, Path], command: list[str | Path], folder: Path) -> None:
    herd, home = rig
    url = f"http://127.0.0.1:{herd.port}"
    done = run([*command, url, home / "voice.wav"], folder, {})
    told = steps(done.stdout)
    assert set(told) == {*EXPECTED, *REASONS}, done.stderr[-2000:]
    for name, said in told.items():
        assert said.startswith("ok "), f"{name}: {said}"
        if name in EXPECTED:
            assert json.loads(said[3:]) == EXPECTED[name], name
        for words in REASONS.get(name, ()):
            assert words in said, name
    pids = [json.loads(line)["pid"] for line in (home / "log").read_text().splitlines()]
    wait_until(lambda: not any(map(is_running, pids)), 2, "no picture to be left under way")


@pytest.mark.parametrize("language", ["python", "node"])
def test_openai(rig: tuple[Herd, Path], tmp_path: Path, language: str) -> None:
    if language == "python":
        check(rig, [python_of("sdks"), CLIENTS / "openai_media_py.py"], tmp_path)
        return
    folder = node_modules("node")
    for script in ("steps.mjs", "openai_media_js.mjs"):  # node looks for packages beside it
        shutil.copy(CLIENTS / script, folder)
    check(rig, [node(), folder / "openai_media_js.mjs"], tmp_path)
