"""What the client scripts share: named steps, each told in one line of output.

`ok NAME RESULT` or `FAIL NAME REASON`. The results of two runs can be compared as text.
"""

import asyncio
import inspect
import json
import sys
from collections.abc import Callable
from typing import Any

URL = sys.argv[1]
PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJg"
    "gg=="
)
"""A picture of one pixel, PNG in base64."""

WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city", "days"],
}
TOOL = {
    "type": "function",
    "function": {"name": "weather", "description": "Weather of a city", "parameters": WEATHER},
}

_STEPS: list[Callable[[], Any]] = []


def step(work: Callable[[], Any]) -> Callable[[], Any]:
    """Register a step; its name is the function's, what it returns is its result."""
    _STEPS.append(work)
    return work


def refused(work: Callable[[], Any], kind: type[Exception], *fields: str) -> list[Any]:
    """The exception that `work` must raise: its class and these attributes."""
    try:
        answer = work()
    except kind as error:
        return [type(error).__name__, *(_field(error, name) for name in fields)]
    raise AssertionError(f"no {kind.__name__}, but {answer!r:.500}")


def _field(error: Exception, name: str) -> Any:
    """An attribute; of a body without the id that each answer has of its own."""
    value = getattr(error, name)
    if isinstance(value, dict):
        return {key: item for key, item in value.items() if key != "request_id"}
    return value


def main() -> None:
    """Run all steps in order, whatever happens to each."""
    for work in _STEPS:
        try:
            result = work()
            if inspect.isawaitable(result):
                result = asyncio.run(result)  # type: ignore[arg-type]
        except Exception as error:  # noqa: BLE001 (a client may raise anything: it is told)
            told = f"FAIL {work.__name__} {type(error).__name__}: {error}"
        else:
            told = f"ok {work.__name__} {json.dumps(result, default=str, ensure_ascii=True)}"
        sys.stdout.write(told.replace("\n", "\\n") + "\n")
        sys.stdout.flush()
