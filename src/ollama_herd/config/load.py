"""Gathers settings: flags beat the environment, it beats the file in the home folder.

An unknown key or variable and a bad value are errors: a typo must not be a setting that silently
does nothing.
"""

import difflib
import enum
import math
import os
import stat
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from pydantic_settings import EnvSettingsSource

from ollama_herd.config.settings import (
    API_KEY_VARIABLE,
    DEFAULT_HOME,
    HOME_VARIABLE,
    NodeSettings,
    RouterSettings,
    Settings,
)

_NOT_SETTINGS = ("HERD_TEST_", "HERD_SKIP_WEB", API_KEY_VARIABLE)
"""Of the tests, of the build of the package, and of commands that ask a router."""


_LONGEST_BYTES = 1_000_000
"""Of a settings file; all settings there are make a few thousand."""


class ConfigError(Exception):
    """A setting that cannot be used. The text names it, where it came from and what is allowed."""


class Source(enum.StrEnum):
    """Where a value came from, strongest first."""

    FLAG = "flag"
    ENV = "env"
    FILE = "file"
    DEFAULT = "default"


class Origin(NamedTuple):
    """Where the value of a setting came from; `where` names the flag, the variable or the file."""

    source: Source
    where: str


S = TypeVar("S", bound=Settings)


class Loaded(NamedTuple, Generic[S]):
    """Settings and where each came from, keyed by field name."""

    settings: S
    origins: Mapping[str, Origin]


def load(kind: type[S], flags: Mapping[str, object]) -> Loaded[S]:
    """Settings of one process from flags, environment, file and defaults.

    `flags` are by field name; None means not given. Raises ConfigError on an unknown key or
    variable and on a bad value.
    """
    given = {name: value for name, value in flags.items() if value is not None and value != []}
    environment = EnvSettingsSource(kind, env_prefix=kind.env_prefix)()
    if HOME_VARIABLE in os.environ:
        environment.setdefault("home", os.environ[HOME_VARIABLE])
    _refuse_unknown_variables()
    home = given.get("home", environment.get("home") or DEFAULT_HOME)
    file = Path(os.path.expanduser(str(home))) / kind.file_name  # noqa: PTH111 - it never raises
    layers: dict[Source, Mapping[str, Any]] = {
        Source.FLAG: given,
        Source.ENV: {name: value for name, value in environment.items() if value != ""},
        Source.FILE: _read_file(kind, file),
    }
    origins = {name: _origin(kind, name, layers, file) for name in kind.model_fields}
    values = {
        name: layers[origin.source][name]
        for name, origin in origins.items()
        if origin.source is not Source.DEFAULT
    }
    try:
        return Loaded(kind(**values), origins)
    except ValidationError as error:
        raise ConfigError(_explain(kind, error, values, origins)) from None


def flag_of(name: str) -> str:
    """The flag that sets a field."""
    return "--no-mdns" if name == "mdns" else f"--{name.replace('_', '-')}"


def default_text(field: FieldInfo) -> str:
    """The default of a setting as help and error messages show it, "" when there is none."""
    if field.default in (None, "", (), PydanticUndefined):
        return ""
    if isinstance(field.default, bool):
        return "true" if field.default else "false"
    if isinstance(field.default, float) and math.isfinite(field.default):
        return f"{field.default:g}"
    if isinstance(field.default, tuple):
        return ", ".join(map(str, field.default))
    return str(field.default)


def _text(file: Path) -> str:
    """Its text. Raises ConfigError for what is no settings file: reading some would never end."""
    found = file.stat()
    if stat.S_ISDIR(found.st_mode):
        raise ConfigError(f"{file} cannot be read: it is a folder")
    if not stat.S_ISREG(found.st_mode):
        raise ConfigError(f"{file} cannot be read: it is no file, but a pipe or a device")
    if found.st_size > _LONGEST_BYTES:
        raise ConfigError(f"{file} cannot be read: it is longer than {_LONGEST_BYTES} bytes")
    return file.read_text(encoding="utf-8-sig")  # editors on Windows


def _read_file(kind: type[Settings], file: Path) -> Mapping[str, Any]:
    try:
        values = tomllib.loads(_text(file))
    except (FileNotFoundError, NotADirectoryError):
        if file.is_symlink():
            raise ConfigError(f"{file} leads to a file that is not there") from None
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{file} is not valid TOML: {error}") from None
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from None
    for name in values:
        if name == "home":
            raise ConfigError(f"'home' cannot be set in {file}: use --home or {HOME_VARIABLE}")
        if name not in kind.model_fields:
            known = sorted(set(kind.model_fields) - {"home"})
            raise ConfigError(f"unknown setting '{name}' in {file}{_meant(name, known)}")
    return values


def _refuse_unknown_variables() -> None:
    """A HERD_* variable that neither process knows is a typo, and typos are told."""
    known = {HOME_VARIABLE}
    for kind in (RouterSettings, NodeSettings):
        known |= {kind.env_prefix + name.upper() for name in kind.model_fields}
    for name in sorted(os.environ):
        spelled = name.upper()
        if not spelled.startswith(RouterSettings.env_prefix) or spelled.startswith(_NOT_SETTINGS):
            continue
        if spelled not in known:
            raise ConfigError(f"unknown variable {name}{_meant(spelled, sorted(known))}")


def _meant(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; known are {', '.join(known)}"


def _origin(
    kind: type[Settings], name: str, layers: Mapping[Source, Mapping[str, Any]], file: Path
) -> Origin:
    if name in layers[Source.FLAG]:
        return Origin(Source.FLAG, flag_of(name))
    if name in layers[Source.ENV]:
        variable = kind.env_prefix + name.upper()
        shared = name == "home" and variable not in os.environ
        return Origin(Source.ENV, HOME_VARIABLE if shared else variable)
    if name in layers[Source.FILE]:
        return Origin(Source.FILE, str(file))
    return Origin(Source.DEFAULT, "")


def _explain(
    kind: type[Settings],
    error: ValidationError,
    values: Mapping[str, object],
    origins: Mapping[str, Origin],
) -> str:
    """One line for the first bad value: what it is, where it came from, what is allowed."""
    detail = error.errors(include_url=False, include_context=False)[0]
    name = str(detail["loc"][0])
    origin, field = origins[name], kind.model_fields[name]
    reason = detail["msg"].removeprefix("Value error, ")
    reason = reason[:1].lower() + reason[1:]
    place = f"{origin.where}: {name}" if origin.source is Source.FILE else origin.where
    default = default_text(field)
    meaning = f"{field.description}; default {default}" if default else str(field.description)
    shown = repr(values[name]) if field.repr else "(secret)"
    return f"{place} = {shown} is not valid: {reason} ({meaning})"
