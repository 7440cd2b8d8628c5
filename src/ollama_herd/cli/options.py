"""Options of the command line, their help taken from the settings, where it is written once."""

from collections.abc import Mapping
from typing import Any

import typer

from ollama_herd.cli.process import fail
from ollama_herd.config import ConfigError, Loaded, default_text, flag_of, load
from ollama_herd.config.load import S


def setting(kind: type[S], name: str, metavar: str | None = None) -> Any:
    """The option that sets a field. It is text here: the settings check all sources alike."""
    field = kind.model_fields[name]
    default = default_text(field)
    shown = f"default: {default}; " if default and field.annotation is not bool else ""
    text = f"{field.description} ({shown}{kind.env_prefix}{name.upper()})"
    return typer.Option(flag_of(name), metavar=metavar, help=text, show_default=False)


def load_or_fail(kind: type[S], flags: Mapping[str, object]) -> Loaded[S]:
    """The settings, or one line and exit status 2."""
    try:
        return load(kind, flags)
    except ConfigError as error:
        fail(str(error), code=2)
