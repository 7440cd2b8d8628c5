"""Lines of recorded answers of a real Ollama, and their shape: keys in their order."""

import json
from typing import Any

from tests.api.exchanges import OLLAMA
from tests.fakes.recordings import read


def recorded_lines(name: str) -> list[bytes]:
    body = read(OLLAMA / f"{name}.txt").response.partition(b"\r\n\r\n")[2]
    return [line for line in body.splitlines() if line.startswith(b"{")]


def shape(line: bytes) -> Any:
    """Keys in their order, all the way down."""

    def keys(value: Any) -> Any:
        if isinstance(value, dict):
            return [(key, keys(item)) for key, item in value.items()]
        if isinstance(value, list):
            return [keys(item) for item in value[:1]]
        return None

    return keys(json.loads(line))
