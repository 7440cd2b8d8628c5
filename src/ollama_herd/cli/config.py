"""`herd config`: every setting with its value and where that came from."""

from typing import Annotated

import msgspec
import typer

from ollama_herd.cli import show
from ollama_herd.cli.client import JsonOption
from ollama_herd.cli.options import load_or_fail, setting
from ollama_herd.config import NodeSettings, RouterSettings, Settings, Source


class _Row(msgspec.Struct):
    name: str
    value: object
    source: Source
    where: str
    help: str


def config(
    *,
    home: Annotated[str | None, setting(RouterSettings, "home", "FOLDER")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the settings of the router on this machine, and where each came from."""
    _print(RouterSettings, home, as_json=as_json)


def node_config(
    *,
    home: Annotated[str | None, setting(NodeSettings, "home", "FOLDER")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the settings of the agent on this machine, and where each came from."""
    _print(NodeSettings, home, as_json=as_json)


def _print(kind: type[Settings], home: str | None, *, as_json: bool) -> None:
    loaded = load_or_fail(kind, {"home": home})
    rows = [
        _Row(
            name=name,
            value=_shown(getattr(loaded.settings, name), is_secret=not field.repr),
            source=loaded.origins[name].source,
            where=loaded.origins[name].where,
            help=field.description or "",
        )
        for name, field in kind.model_fields.items()
    ]
    if as_json:
        typer.echo(msgspec.json.encode(rows))
        return
    table = show.table("setting", "value", "from", "what it is")
    for one in rows:
        style = "" if one.source is Source.DEFAULT else "bold"
        value = show.text(one.value, style)
        show.row(table, (one.name, value, one.where or one.source.value, one.help))
    show.console().print(table)


def _shown(value: object, *, is_secret: bool) -> object:
    if is_secret and value:
        return "(secret)"
    if isinstance(value, bool | int | float) or value is None:
        return value
    if isinstance(value, tuple | list | frozenset):
        return ", ".join(map(str, value))
    return str(value)
