"""The vendors' own packages, in Python and JavaScript: every step, and the same as directly."""

import shutil
from pathlib import Path

import pytest

from tests.interop.conftest import Rig
from tests.interop.environments import CLIENTS, node, node_modules, python_of

BETTER_THAN_ONE = {
    "count_tokens": "an Ollama has no such path; the herd answers, so that clients need not guess",
    "no_pictures": "as above: the herd has the path, and says what is wrong with the model",
}
"""Steps that end otherwise at a single Ollama, and why."""


def steps(told: str) -> dict[str, str]:
    """What a script printed, by step: `ok …` or `FAIL …`."""
    found = {}
    for line in told.splitlines():
        mark, _, rest = line.partition(" ")
        if mark in ("ok", "FAIL"):
            name, _, result = rest.partition(" ")
            found[name] = f"{mark} {result}"
    return found


def check(rig: Rig, command: list[str | Path], folder: Path) -> None:
    """The script does everything through the herd, with the results it has directly."""
    alone = rig.run([*command, rig.alone.url], folder)
    direct = steps(alone.stdout)
    assert direct, alone.stderr[-2000:]
    done = rig.run([*command, rig.url], folder)
    through = steps(done.stdout)
    assert list(through) == list(direct), done.stderr[-2000:]
    failed = [f"{name}: {told}" for name, told in through.items() if told.startswith("FAIL ")]
    assert not failed, "\n".join(failed)
    other = [
        f"{name}\n  directly: {told}\n  the herd: {through[name]}"
        for name, told in direct.items()
        if through[name] != told and name not in BETTER_THAN_ONE
    ]
    assert not other, "\n".join(other)


@pytest.mark.parametrize("name", ["ollama", "openai", "anthropic"])
def test_python(rig: Rig, tmp_path: Path, name: str) -> None:
    check(rig, [python_of("sdks"), CLIENTS / f"{name}_py.py"], tmp_path)


@pytest.mark.parametrize("name", ["ollama", "openai", "anthropic"])
def test_node(rig: Rig, tmp_path: Path, name: str) -> None:
    check(rig, script_of("node", f"{name}_js.mjs"), tmp_path)


def test_ai_sdk(rig: Rig, tmp_path: Path) -> None:
    """Vercel's, through five providers."""
    check(rig, script_of("ai-sdk", "ai_sdk.mjs"), tmp_path)


def script_of(environment: str, name: str) -> list[str | Path]:
    folder = node_modules(environment)
    for script in ("steps.mjs", name):  # node looks for packages beside the script
        shutil.copy(CLIENTS / script, folder)
    return [node(), folder / name]
