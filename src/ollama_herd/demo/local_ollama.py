"""The Ollama that already runs on this machine, and which of its models a demo should use."""

import os
from typing import Any, NamedTuple

from ollama_herd.demo.loopback import FAILURES, get_json, post_json
from ollama_herd.engines.address import DEFAULT_PORT, EngineAddress, parse_ollama_host

_EMBEDDING_FAMILIES = ("bert", "nomic-bert")


class LocalModel(NamedTuple):
    """An Ollama and a model that completes text."""

    url: str
    name: str
    thinks: bool


def find() -> LocalModel | None:
    """A loaded model before a small one; None without Ollama or without a model that chats.

    As for Ollama's own client OLLAMA_HOST stands in for the usual address, unless it is a herd:
    machines that use one have it there, and a herd must not serve itself.
    """
    usual = EngineAddress("127.0.0.1", DEFAULT_PORT)
    told = parse_ollama_host(os.environ.get("OLLAMA_HOST", ""))
    try:
        address = usual if told is None or _is_herd(told.url) else told
        return _best_model(address.url)
    except (*FAILURES, KeyError, TypeError, AttributeError):
        return None  # no Ollama, or something else that listens there


def _is_herd(url: str) -> bool:
    try:
        get_json(f"{url}/fleet/status")
    except ValueError:
        return False
    return True


def _best_model(url: str) -> LocalModel | None:
    entries = [
        entry
        for entry in get_json(f"{url}/api/tags")["models"]
        if not entry.get("remote_host")  # Ollama's cloud: the demo stays on this machine
    ]
    loaded = {entry["name"] for entry in get_json(f"{url}/api/ps")["models"]}
    entries.sort(key=lambda entry: (entry["name"] not in loaded, entry["size"]))
    for entry in entries:
        capabilities = _capabilities(url, entry)
        if "completion" in capabilities:
            return LocalModel(url, entry["name"], "thinking" in capabilities)
    return None


def _capabilities(url: str, entry: dict[str, Any]) -> list[str]:
    """As the tag says, or `/api/show`, or for an Ollama older than both by the family."""
    if "capabilities" in entry:
        return list(entry["capabilities"])
    shown = post_json(f"{url}/api/show", {"model": entry["name"]})
    if "capabilities" in shown:
        return list(shown["capabilities"])
    family = entry.get("details", {}).get("family", "")
    return [] if family in _EMBEDDING_FAMILIES else ["completion"]
