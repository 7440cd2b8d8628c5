"""Settings that may be changed while the router runs. Pure: values in, settings out.

A flag or a variable given at the start says that somebody wants it so; only what comes from the
settings file or by default can be changed here.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from ollama_herd.config.load import Origin, Source
from ollama_herd.config.settings import RouterSettings

LIVE = (
    "allow_destructive",
    "fallbacks",
    "priorities",
    "queue_limit",
    "queue_timeout_s",
    "max_attempts",
    "hedge",
    "continue_streams",
    "kept_bytes",
    "sse_keepalive_s",
    "canary_s",
    "placement",
    "trace_retention_days",
    "trace_max_rows",
    "trace_max_bytes",
)
"""In the order in which people see them."""


class SettingRefused(ValueError):  # noqa: N818 - an answer to a person, not a defect
    """A change that cannot be made; the message says why. `field` is the setting."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(reason)
        self.field = field


def locked(name: str, origins: Mapping[str, Origin]) -> str:
    """Why a setting cannot be changed while the router runs, "" when it can."""
    if name not in LIVE:
        return "it takes a restart: set it in herd.toml, by its flag or its variable"
    origin = origins.get(name)
    if origin is not None and origin.source in (Source.FLAG, Source.ENV):
        return f"it was set by {origin.where} when the router was started"
    return ""


def changed(
    settings: RouterSettings, name: str, value: object, origins: Mapping[str, Origin]
) -> RouterSettings:
    """The settings with one of them changed. Raises SettingRefused."""
    if name not in RouterSettings.model_fields:
        raise SettingRefused(name, f"there is no setting '{name[:80]}'")
    reason = locked(name, origins)
    if reason:
        raise SettingRefused(name, f"'{name}' cannot be changed now: {reason}")
    values: dict[str, Any] = {key: getattr(settings, key) for key in RouterSettings.model_fields}
    expected = type(RouterSettings.model_fields[name].default)
    # Pydantic would take 1 for true and "5" for 5: from a form that is a mistake.
    if isinstance(value, bool) is not (expected is bool) or not isinstance(
        value, bool | int | float
    ):
        kind = "true or false" if expected is bool else "a number"
        raise SettingRefused(name, f"'{name}' must be {kind}")
    try:
        return RouterSettings(**{**values, name: value})
    except ValidationError as error:
        said = error.errors(include_url=False, include_context=False)[0]["msg"]
        raise SettingRefused(name, f"'{name}' cannot be {value!r}: {said}") from None


def overridden(
    settings: RouterSettings, kept: Mapping[str, object], origins: Mapping[str, Origin]
) -> tuple[RouterSettings, dict[str, str]]:
    """The settings with all that was changed earlier, and why some of it does not count."""
    ignored: dict[str, str] = {}
    for name, value in kept.items():
        try:
            settings = changed(settings, name, value, origins)
        except SettingRefused as refused:
            ignored[name] = str(refused)
    return settings, ignored
