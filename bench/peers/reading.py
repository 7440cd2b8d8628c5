"""What a client makes of a router's answer: its text, whether it looks complete, the error told.

More patient than tests/e2e/fault_reading.py, which holds our own answers to every field: here an
answer is judged by its text alone, whatever else a router leaves out or makes up.
"""

import json
from dataclasses import dataclass
from typing import Any

from tests.e2e.fault_reading import Asked
from tests.fakes.raw import Response


@dataclass(frozen=True)
class Read:
    """Without an error the client takes `text` for the answer; `is_whole` is its end marker."""

    text: str
    is_whole: bool
    error: str = ""


def read(asked: Asked, answer: Response) -> Read:
    """Never raises: what makes no sense is an error to a client too. Status 0 is no answer."""
    error = _broken(answer)
    if error:
        return Read("", is_whole=False, error=error)
    try:
        if not asked.is_stream:
            return _joined([answer.json()], is_whole=True)
        return _lines(answer) if asked.path.startswith("/api/") else _events(answer.body)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as odd:
        return Read("", is_whole=False, error=f"not an answer: {odd!r}")


def _broken(answer: Response) -> str:
    if answer.status == 0:
        return answer.reason or "connection closed"
    if answer.status != 200:
        return f"{answer.status} {answer.body[:150]!r}"
    return "" if answer.is_whole else "cut connection"


def _lines(answer: Response) -> Read:
    lines = answer.lines()
    return _joined(lines, is_whole=bool(lines) and bool(lines[-1].get("done")))


def _events(body: bytes) -> Read:
    found = [
        line.removeprefix(b"data:").strip()
        for line in body.splitlines()
        if line.startswith(b"data:")
    ]
    events = [json.loads(data) for data in found if data and data != b"[DONE]"]
    return _joined(events, is_whole=b"[DONE]" in found)


def _joined(parts: list[dict[str, Any]], *, is_whole: bool) -> Read:
    error = next((str(part["error"]) for part in parts if part.get("error")), "")
    return Read("".join(map(_text, parts)), is_whole=is_whole and not error, error=error)


def _text(part: dict[str, Any]) -> str:
    """Of a whole answer, a line or an event, of either API."""
    if "message" in part:
        return part["message"]["content"] or ""
    return "".join(
        (choice.get("delta") or choice.get("message") or {}).get("content") or ""
        for choice in part.get("choices", ())
    )
