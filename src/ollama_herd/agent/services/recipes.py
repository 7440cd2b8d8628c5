"""The commands that make pictures: which models, which weights, which flags. Pure.

Names and flags are those of mflux 0.24 and diffusionkit 0.5.2 (`tests/agent/test_recipes.py` holds
them to the packages' own parsers).
"""

import re
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Final

import msgspec


class Tool(StrEnum):
    """Whose command line it is."""

    MFLUX = "mflux"
    DIFFUSIONKIT = "diffusionkit"


class Recipe(msgspec.Struct, frozen=True):
    """A model: its name in the herd, the command, and the Hugging Face repository of its weights.

    `model` is what the command calls it, "" where the command knows only one.
    """

    name: str
    tool: Tool
    command: str
    repository: str
    model: str = ""


class Picture(msgspec.Struct, frozen=True):
    """A picture to make; None leaves it to the command."""

    prompt: str
    seeds: tuple[int, ...]
    width: int | None = None
    height: int | None = None
    steps: int | None = None
    guidance: float | None = None
    negative_prompt: str = ""
    quantize: int | None = None


RECIPES: Final = (
    Recipe("z-image-turbo", Tool.MFLUX, "mflux-generate-z-image-turbo", "Tongyi-MAI/Z-Image-Turbo"),
    Recipe("z-image", Tool.MFLUX, "mflux-generate-z-image", "Tongyi-MAI/Z-Image"),
    Recipe(
        "flux-schnell",
        Tool.MFLUX,
        "mflux-generate",
        "black-forest-labs/FLUX.1-schnell",
        "schnell",
    ),
    Recipe("flux-dev", Tool.MFLUX, "mflux-generate", "black-forest-labs/FLUX.1-dev", "dev"),
    Recipe(
        "flux-krea-dev",
        Tool.MFLUX,
        "mflux-generate",
        "black-forest-labs/FLUX.1-Krea-dev",
        "krea-dev",
    ),
    Recipe(
        "flux2-klein-4b",
        Tool.MFLUX,
        "mflux-generate-flux2",
        "black-forest-labs/FLUX.2-klein-4B",
        "flux2-klein-4b",
    ),
    Recipe(
        "flux2-klein-9b",
        Tool.MFLUX,
        "mflux-generate-flux2",
        "black-forest-labs/FLUX.2-klein-9B",
        "flux2-klein-9b",
    ),
    Recipe("qwen-image", Tool.MFLUX, "mflux-generate-qwen", "Qwen/Qwen-Image-2512"),
    Recipe(
        "sd3-medium",
        Tool.DIFFUSIONKIT,
        "diffusionkit-cli",
        "argmaxinc/mlx-stable-diffusion-3-medium",
        "argmaxinc/mlx-stable-diffusion-3-medium",
    ),
    Recipe(
        "sd3.5-large",
        Tool.DIFFUSIONKIT,
        "diffusionkit-cli",
        "argmaxinc/mlx-stable-diffusion-3.5-large",
        "argmaxinc/mlx-stable-diffusion-3.5-large",
    ),
    Recipe(
        "sd3.5-large-4bit",
        Tool.DIFFUSIONKIT,
        "diffusionkit-cli",
        "argmaxinc/mlx-stable-diffusion-3.5-large-4bit-quantized",
        "argmaxinc/mlx-stable-diffusion-3.5-large-4bit-quantized",
    ),
)

PROMPT_FILE: Final = "prompt.txt"
OUTPUT: Final = "picture.png"


def command_lines(recipe: Recipe, picture: Picture, folder: Path) -> list[list[str]]:
    """What to run, one after the other, for all the seeds; arguments after the command's path.

    mflux reads the prompt from `PROMPT_FILE` in `folder`, where no list of processes shows it;
    diffusionkit takes it on its command line only. Pictures are `picture*.png` afterwards.
    """
    if recipe.tool is Tool.MFLUX:
        return [_mflux(recipe, picture, folder)]
    return [
        _diffusionkit(recipe, picture, seed, folder / f"picture_{place:02}.png")
        for place, seed in enumerate(picture.seeds)
    ]


def _mflux(recipe: Recipe, picture: Picture, folder: Path) -> list[str]:
    line = ["--prompt-file", str(folder / PROMPT_FILE), "--output", str(folder / OUTPUT)]
    if recipe.model:
        line += ["--model", recipe.model]
    line += _sizes(picture, "--guidance")
    if picture.negative_prompt:
        line.append(f"--negative-prompt={picture.negative_prompt}")
    if picture.quantize is not None:
        line += ["--quantize", str(picture.quantize)]
    return [*line, "--seed", *map(str, picture.seeds)]


def _diffusionkit(recipe: Recipe, picture: Picture, seed: int, output: Path) -> list[str]:
    line = [f"--prompt={picture.prompt}", "--model-version", recipe.model]
    line += ["--output-path", str(output), "--seed", str(seed), *_sizes(picture, "--cfg")]
    if picture.negative_prompt:
        line.append(f"--negative_prompt={picture.negative_prompt}")
    return line


def _sizes(picture: Picture, guidance: str) -> list[str]:
    line: list[str] = []
    for flag, value in (
        ("--width", picture.width),
        ("--height", picture.height),
        ("--steps", picture.steps),
        (guidance, picture.guidance),
    ):
        if value is not None:
            line += [flag, f"{value:g}" if isinstance(value, float) else str(value)]
    return line


_STEP = re.compile(r"(\d{1,4})/(\d{1,4}) \[")
"""A line of tqdm: ` 25%|##5       | 5/20 [00:10<00:30,  2.00s/it]`."""


def progress(text: str) -> tuple[int, int] | None:
    """(step, steps) by the last progress bar in what the command printed."""
    found = _STEP.findall(text)
    step, steps = found[-1] if found else (0, 0)
    return (int(step), int(steps)) if found and int(steps) else None


_NOISE = re.compile(r"\d+%\|")
REASON_CHARS: Final = 400


def reason(printed: str, lines: int = 1) -> str:
    """The end of what a command printed to stderr, without progress bars."""
    told = [line.strip() for line in re.split(r"[\r\n]+", printed)]
    kept = [line for line in told if line and not _NOISE.search(line)]
    return " ".join(kept[-lines:])[-REASON_CHARS:]


def to_install(recipes: Sequence[Recipe]) -> str:
    """What to do when commands are there and weights are not."""
    names = ", ".join(recipe.repository for recipe in recipes[:3])
    more = " and others" if len(recipes) > 3 else ""
    return (
        f"commands that make pictures are installed, but no weights for them: fetch {names}{more} "
        "with `hf download REPOSITORY`"
    )
