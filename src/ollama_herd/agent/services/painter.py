"""Makes pictures by running a command, one at a time: there is one device."""

import asyncio
import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from ollama_herd.agent.services import recipes
from ollama_herd.agent.services.folders import clear_work, new_work
from ollama_herd.agent.services.process import CommandTimeout, run
from ollama_herd.agent.services.recipes import RECIPES, Picture, Recipe, Tool
from ollama_herd.agent.services.weights import cache_folder, find_command, weights_bytes
from ollama_herd.core.abilities import IMAGE
from ollama_herd.core.node import Model, ModelDetails

USAGE_STATUS = 2
"""argparse ends with it when it does not take the arguments."""

_OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
"""Weights that are missing are an error, never a download."""

Hear = Callable[[int, int], None]
"""Hears of progress: step, steps."""


class PaintingFailed(Exception):  # noqa: N818 - an answer to a client, not a defect
    """No picture came out. `status` is for the client, the text says why."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Painter:
    """The commands and weights of this machine, and the one picture under way."""

    def __init__(self, home: Path, within_s: float, environment: Mapping[str, str]) -> None:
        self._folder = home / "pictures"
        self._within_s = within_s
        self._environment = environment
        self._device = asyncio.Lock()
        self._commands: dict[str, Path] = {}
        self._models: dict[str, Recipe] = {}
        self.doing = ""  # the model under way and how far it is

    def look(self) -> tuple[Model, ...]:
        """What can be made here: reads the disk, so call it in a thread."""
        environment = self._environment
        commands = {
            name: path
            for name in {recipe.command for recipe in RECIPES}
            if (path := find_command(name, environment)) is not None
        }
        cache = cache_folder(environment)
        sizes = {
            recipe.name: weights_bytes(cache, recipe.repository)
            for recipe in RECIPES
            if recipe.command in commands
        }
        self._commands = commands
        self._models = {r.name: r for r in RECIPES if sizes.get(r.name)}
        return tuple(
            Model(
                name=recipe.name,
                size_bytes=sizes[recipe.name],
                details=ModelDetails(format=recipe.tool.value),
                capabilities=(IMAGE,),
            )
            for recipe in self._models.values()
        )

    @property
    def is_installed(self) -> bool:
        """Whether any command is there, with weights or without."""
        return bool(self._commands)

    @property
    def to_install(self) -> str:
        """What to fetch, for people."""
        return recipes.to_install([r for r in RECIPES if r.command in self._commands])

    def clear(self) -> None:
        """Remove what an agent that was killed left behind."""
        clear_work(self._folder)

    async def paint(self, model: str, picture: Picture, hear: Hear) -> list[bytes]:
        """The pictures, one a seed, in order. Raises PaintingFailed; waits for the device."""
        recipe = self._models.get(model)
        if recipe is None:
            raise PaintingFailed(404, f"model '{model}' is not on this machine")
        async with self._device:
            work = new_work(self._folder)
            self.doing = f"{model}: loads"
            try:
                return await self._paint(recipe, picture, work, hear)
            finally:
                self.doing = ""
                shutil.rmtree(work, ignore_errors=True)

    async def _paint(self, recipe: Recipe, picture: Picture, work: Path, hear: Hear) -> list[bytes]:
        if recipe.tool is Tool.MFLUX:
            (work / recipes.PROMPT_FILE).write_text(picture.prompt, encoding="utf-8")
        deadline_s = asyncio.get_running_loop().time() + self._within_s
        for line in recipes.command_lines(recipe, picture, work):
            left_s = deadline_s - asyncio.get_running_loop().time()
            await self._run(
                recipe, [str(self._commands[recipe.command]), *line], work, left_s, hear
            )
        pictures = await asyncio.to_thread(_made, work, picture.seeds)
        if len(pictures) != len(picture.seeds):
            raise PaintingFailed(500, f"{recipe.command} ended well but left no picture behind")
        return pictures

    async def _run(
        self, recipe: Recipe, command: list[str], work: Path, left_s: float, hear: Hear
    ) -> None:
        def listen(printed: str) -> None:
            step = recipes.progress(printed)
            if step is not None:
                self.doing = f"{recipe.name}: step {step[0]} of {step[1]}"
                hear(*step)

        environment = {**self._environment, **_OFFLINE}
        try:
            ended = await run(
                command, folder=work, environment=environment, within_s=left_s, hear=listen
            )
        except CommandTimeout:
            raise PaintingFailed(
                504, f"{recipe.command} took longer than {self._within_s:g} s and was ended"
            ) from None
        if ended.status:
            status = 400 if ended.status == USAGE_STATUS else 500
            why = recipes.reason(ended.printed) or f"it ended with status {ended.status}"
            raise PaintingFailed(status, f"{recipe.command} failed: {why}")


def _made(work: Path, seeds: tuple[int, ...]) -> list[bytes]:
    """In the order of seeds: they are in the names mflux gives, ours for diffusionkit count up."""
    made = {path.name: path for path in work.glob("picture*.png")}
    named = [made[name] for seed in seeds if (name := f"picture_seed_{seed}.png") in made]
    in_order = named if len(named) == len(seeds) else [made[name] for name in sorted(made)]
    return [path.read_bytes() for path in in_order]


def seeds_of(seed: int | None, n: int) -> tuple[int, ...]:
    """A seed a picture: from the one asked for on, else by chance."""
    first = secrets.randbelow(2**31 - n) if seed is None else seed
    return tuple(first + place for place in range(n))


def own_environment() -> dict[str, str]:
    """Ours without the settings of the herd, which are no business of other programs."""
    return {name: value for name, value in os.environ.items() if not name.startswith("HERD_")}
