"""What `--help` shows, of every command of both programs."""

from collections.abc import Iterator
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from ollama_herd.cli import agent, commands

PROGRAMS = {"herd": commands.app, "herd-node": agent.app}


def paths(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Of a command and all below it."""
    yield path
    if hasattr(command, "list_commands"):
        for name in command.list_commands(None):
            yield from paths(command.get_command(None, name), (*path, name))


ALL = [(name, *path) for name, app in PROGRAMS.items() for path in paths(get_command(app))]


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_help_fits_and_shows_nothing_odd(path: tuple[str, ...]) -> None:
    name, *arguments = path
    for columns in (80, 120):
        env = {"COLUMNS": str(columns), "TERMINAL_WIDTH": str(columns), "NO_COLOR": "1"}
        ended = CliRunner().invoke(PROGRAMS[name], [*arguments, "--help"], env=env)
        assert ended.exit_code == 0
        assert "Usage: " in ended.output
        assert max(map(len, ended.output.splitlines())) <= columns
        assert "<bool>" not in ended.output
        assert "list[" not in ended.output
        assert "…" not in ended.output.replace("--…engine", "")
        assert ("--show-completion" in ended.output) is (len(path) == 1)
