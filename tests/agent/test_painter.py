"""Commands that make pictures: found, run, heard, bounded, ended with everything they started."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from ollama_herd.agent.services import recipes, weights
from ollama_herd.agent.services.painter import Painter, PaintingFailed, seeds_of
from ollama_herd.agent.services.recipes import RECIPES, Picture
from ollama_herd.clock import monotonic_s
from tests.agent.kitchen import environment, fetch, install, is_running
from tests.fakes.media import png
from tests.pace import in_time

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the stand-ins are POSIX scripts")

TURBO, MEDIUM = "z-image-turbo", "sd3-medium"
PICTURE = Picture(prompt="a red barn", seeds=(7,), width=64, height=32, steps=3)


def painter(folder: Path, within_s: float = 30, **more: str) -> Painter:
    install(folder, "mflux-generate-z-image-turbo", "diffusionkit-cli")
    fetch(folder, "Tongyi-MAI/Z-Image-Turbo", "argmaxinc/mlx-stable-diffusion-3-medium")
    made = Painter(folder, within_s, environment(folder, **more))
    assert [model.name for model in made.look()] == [TURBO, MEDIUM]
    return made


def told(folder: Path) -> list[dict[str, Any]]:
    path = folder / "log"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


async def begun(folder: Path, count: int = 1) -> list[dict[str, Any]]:
    deadline_s = monotonic_s() + 10
    while len(told(folder)) < count:
        assert monotonic_s() < deadline_s, "the command did not begin"
        await asyncio.sleep(0.02)
    return told(folder)


def nobody(*_: object) -> None:
    pass


@pytest.mark.parametrize("model", [TURBO, MEDIUM])
async def test_pictures_by_seed(tmp_path: Path, model: str) -> None:
    steps: list[tuple[int, int]] = []
    several = Picture(prompt="-a barn", seeds=(7, 300, 9), width=64, height=32, steps=3)
    made = await painter(tmp_path).paint(model, several, lambda *step: steps.append(step))
    assert made == [png(64, 32, (seed % 256, 0, 0)) for seed in several.seeds]
    assert (3, 3) in steps
    assert {(one["prompt"], one["offline"]) for one in told(tmp_path)} == {("-a barn", "1")}
    assert list((tmp_path / "pictures").iterdir()) == []


async def test_mflux_s_prompt_is_in_no_list_of_processes(tmp_path: Path) -> None:
    await painter(tmp_path).paint(TURBO, PICTURE, nobody)
    assert not any("barn" in word for one in told(tmp_path) for word in one["argv"])


async def test_a_failure_says_why(tmp_path: Path) -> None:
    failing = painter(tmp_path, STAND_IN_FAILS="ValueError: the weights are damaged")
    with pytest.raises(PaintingFailed, match="ValueError: the weights are damaged") as failed:
        await failing.paint(TURBO, PICTURE, nobody)
    assert failed.value.status == 500
    assert list((tmp_path / "pictures").iterdir()) == []


async def test_wrong_arguments_are_the_client_s_affair(tmp_path: Path) -> None:
    wrong, strict = Picture(prompt="x", seeds=(1,), quantize=7), painter(tmp_path)
    with pytest.raises(PaintingFailed, match=r"invalid choice: '?7") as failed:
        await strict.paint(TURBO, wrong, nobody)
    assert failed.value.status == 400


@pytest.mark.parametrize("child", ["", "1"])
async def test_a_picture_given_up_frees_the_device_at_once(tmp_path: Path, child: str) -> None:
    slow = painter(tmp_path, STAND_IN_STEP_S="30", STAND_IN_CHILD=child)
    task = asyncio.ensure_future(slow.paint(TURBO, PICTURE, nobody))
    started = await begun(tmp_path, 2 if child else 1)
    task.cancel()
    begun_s = monotonic_s()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert in_time(monotonic_s() - begun_s, 1)
    assert not any(is_running(one["pid"]) for one in started)
    assert list((tmp_path / "pictures").iterdir()) == []


async def test_a_picture_that_takes_too_long(tmp_path: Path) -> None:
    slow = painter(tmp_path, within_s=1.5, STAND_IN_STEP_S="30")
    with pytest.raises(PaintingFailed, match=r"took longer than 1\.5 s") as failed:
        await slow.paint(TURBO, PICTURE, nobody)
    assert failed.value.status == 504
    assert not any(is_running(one["pid"]) for one in told(tmp_path))


async def test_one_picture_at_a_time(tmp_path: Path) -> None:
    slow = painter(tmp_path, STAND_IN_STEP_S="0.1")
    seen: list[str] = []

    async def one(name: str, model: str) -> None:
        await slow.paint(model, PICTURE, lambda *_: seen.append(name))

    await asyncio.gather(one("first", TURBO), one("second", MEDIUM))
    assert seen == sorted(seen)


def test_weights_that_are_not_whole_are_not_offered(tmp_path: Path) -> None:
    install(tmp_path, "mflux-generate-z-image-turbo")
    cache = fetch(tmp_path, "Tongyi-MAI/Z-Image-Turbo")
    made = Painter(tmp_path, 30, environment(tmp_path))
    assert made.look()[0].size_bytes == 1000
    (snapshot,) = cache.glob("*/snapshots/abc")
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    assert made.look() == ()
    assert made.is_installed
    assert "hf download" in made.to_install
    (snapshot / "model-2.safetensors").symlink_to(tmp_path / "missing")
    assert made.look() == ()
    (snapshot / "model-2.safetensors").unlink()
    (snapshot / "model-2.safetensors").write_bytes(b"w" * 5)
    assert made.look()[0].size_bytes == 1005


def test_a_machine_without_commands_says_nothing(tmp_path: Path) -> None:
    made = Painter(tmp_path, 30, {"PATH": str(tmp_path), "HF_HOME": str(tmp_path)})
    if any(weights.find_command(recipe.command, {"PATH": ""}) for recipe in RECIPES):
        pytest.skip("a command is installed here")
    assert made.look() == ()
    assert not made.is_installed


def test_where_the_cache_is() -> None:
    assert weights.cache_folder({"HF_HUB_CACHE": "/a"}) == Path("/a")
    assert weights.cache_folder({"HF_HOME": "/a"}) == Path("/a/hub")
    assert weights.cache_folder({"XDG_CACHE_HOME": "/a"}) == Path("/a/huggingface/hub")


@pytest.mark.parametrize(
    ("printed", "step"),
    [
        ("", None),
        ("loading 3 of 4", None),
        ("\r 25%|██5       | 5/20 [00:10<00:30,  2.00s/it]", (5, 20)),
        ("  0%|  | 0/4 [00:00<?, ?it/s]\r 50%|# | 2/4 [00:01<00:01]", (2, 4)),
    ],
)
def test_progress(printed: str, step: tuple[int, int] | None) -> None:
    assert recipes.progress(printed) == step


def test_the_reason_is_the_last_line_that_is_no_progress() -> None:
    printed = "Traceback:\n  File x\nOSError: no such model\r 50%|## | 1/2 [00:01<00:01]\n"
    assert recipes.reason(printed) == "OSError: no such model"


def test_seeds_follow_the_one_asked_for() -> None:
    assert seeds_of(5, 3) == (5, 6, 7)
    assert len(set(seeds_of(None, 4))) == 4


def test_commands_are_found_where_installers_put_them(tmp_path: Path) -> None:
    place = install(tmp_path, "mflux-generate")
    found = weights.find_command(
        "mflux-generate", {"PATH": os.pathsep.join(["/nowhere", str(place)])}
    )
    assert found == place / "mflux-generate"
