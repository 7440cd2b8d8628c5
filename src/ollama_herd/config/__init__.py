"""The settings of `herd` and `herd-node`: what there is, and how it is gathered."""

from ollama_herd.config.load import (
    ConfigError,
    Loaded,
    Origin,
    Source,
    default_text,
    flag_of,
    load,
)
from ollama_herd.config.quiet import parse_quiet_hours, until_text
from ollama_herd.config.settings import (
    API_KEY_VARIABLE,
    HOME_VARIABLE,
    OLLAMA_PORT,
    RELAY_PORT,
    ROUTER_PORT,
    NodeSettings,
    RouterSettings,
    Settings,
)

__all__ = [
    "API_KEY_VARIABLE",
    "HOME_VARIABLE",
    "OLLAMA_PORT",
    "RELAY_PORT",
    "ROUTER_PORT",
    "ConfigError",
    "Loaded",
    "NodeSettings",
    "Origin",
    "RouterSettings",
    "Settings",
    "Source",
    "default_text",
    "flag_of",
    "load",
    "parse_quiet_hours",
    "until_text",
]
