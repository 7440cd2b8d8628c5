"""Subcommands that are imported when they are used: a command must not wait for all the others."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, ClassVar

import typer
from typer.core import TyperGroup
from typer.main import get_command

from ollama_herd.cli import interrupts


class LazyGroup(TyperGroup):
    """`lazy` names for each subcommand `module:attribute`, which is a function or a Typer."""

    lazy: ClassVar[Mapping[str, str]] = {}

    def list_commands(self, ctx: Any) -> list[str]:
        """All names, those of the table in its order."""
        return [*self.lazy, *super().list_commands(ctx)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name, None when there is none."""
        where = self.lazy.get(cmd_name)
        if where is None:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = where.partition(":")
        command = _command(getattr(import_module(module), attribute), cmd_name)
        interrupts.raise_again()
        return command


def _command(found: typer.Typer | Callable[..., object], name: str) -> Any:
    app = found
    if not isinstance(app, typer.Typer):
        app = typer.Typer(add_completion=False)
        app.command(name)(found)
    command = get_command(app)
    command.name = name
    return command
