"""Subcommands that are imported when they are used: a command must not wait for all the others."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, ClassVar, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from ollama_herd.cli import interrupts

_F = TypeVar("_F", bound=Callable[..., Any])


class _Flags:
    """Help shows no type beside a switch, which takes no value, nor beside an argument, whose name
    and help say what it is.
    """

    def get_params(self, ctx: Any) -> list[Any]:
        """All of them, Typer's own switches too."""
        # Types see no base here: it is Typer's class beside this one, in both classes below.
        found: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for one in found:
            if getattr(one, "is_flag", False) and one.metavar is None:
                one.metavar = ""
            if one.param_type_name == "argument":
                one.display_type_rich = _no_type
        return found


def _no_type(ctx: Any) -> None:
    """What Typer shows beside a parameter."""


class Command(_Flags, TyperCommand):
    """A command without commands below it."""


class Group(_Flags, TyperGroup):
    """A command with commands below it."""


class Commands(typer.Typer):
    """Commands below one of `herd` or `herd-node`; completion is of these two as a whole."""

    def __init__(self, **more: Any) -> None:
        super().__init__(cls=Group, add_completion=False, pretty_exceptions_enable=False, **more)

    def command(self, name: str | None = None, **more: Any) -> Callable[[_F], _F]:
        """Typer's decorator."""
        return super().command(name, cls=Command, **more)


class LazyGroup(Group):
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
        app = Commands()
        app.command(name)(found)
    command = get_command(app)
    command.name = name
    return command
