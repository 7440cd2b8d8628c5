"""The command lines for mflux and diffusionkit, held to the real packages' own parsers."""

import json
from pathlib import Path

from ollama_herd.agent.services.recipes import (
    PROMPT_FILE,
    RECIPES,
    Picture,
    Tool,
    command_lines,
)
from tests.interop.environments import CLIENTS, python_of, run

PICTURE = Picture(
    prompt="--a red barn",
    seeds=(5, 6),
    width=512,
    height=256,
    steps=3,
    guidance=2.5,
    negative_prompt="-rain",
)


def test_the_real_parsers_take_them(tmp_path: Path) -> None:
    (tmp_path / PROMPT_FILE).write_text(PICTURE.prompt)
    lines = [(r, one) for r in RECIPES for one in command_lines(r, PICTURE, tmp_path)]
    asked = tmp_path / "lines.json"
    asked.write_text(json.dumps([(recipe.command, line) for recipe, line in lines]))
    python = python_of("mflux", "--no-deps")
    done = run([python, CLIENTS / "picture_parsers.py", asked], tmp_path, {"HF_HUB_OFFLINE": "1"})
    assert done.returncode == 0, done.stderr[-2000:]
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(told) == len(lines)
    for (recipe, _), parsed in zip(lines, told, strict=True):
        assert (parsed["width"], parsed["height"], parsed["steps"]) == (512, 256, 3)
        assert parsed["negative_prompt"] == "-rain"
        if recipe.tool is Tool.MFLUX:
            assert parsed["seed"] == [5, 6]
            assert parsed["prompt_file"] == str(tmp_path / PROMPT_FILE)
            assert parsed["output"] == str(tmp_path / "picture_seed_{seed}.png")
            assert parsed["model"] == (recipe.model or None)
        else:
            assert (parsed["prompt"], parsed["cfg"]) == (PICTURE.prompt, 2.5)
            assert parsed["model_version"] == recipe.repository
