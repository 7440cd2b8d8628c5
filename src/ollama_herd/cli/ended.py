"""Requests that have ended, as the router lists them and as rows of a table."""

import time
from collections.abc import Mapping

import msgspec

from ollama_herd.cli import show
from ollama_herd.clock import now_s


class Ended(msgspec.Struct):
    """What is shown of one."""

    request_id: str
    started_s: float
    model: str
    node_id: str
    client: str
    status: int
    error: str
    ttft_ms: float
    total_ms: float
    attempt_count: int
    hedged: bool = False
    continued: bool = False
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    decode_ms: float | None = None


class EndedPage(msgspec.Struct):
    """A page of them, newest first; `next` is the cursor of the one behind it, "" at the end."""

    traces: list[Ended]
    next: str = ""


HEADINGS = ("model", "node", "client", "status", "first token>", "total>")


def cells(one: Ended, names: Mapping[str, str], after_node: str = "") -> list[object]:
    """When it began, with its day where that is not today, and what stands below HEADINGS."""
    at, now = time.localtime(one.started_s), time.localtime(now_s())
    is_today = at[:3] == now[:3]
    status = f"{one.status} {one.error}".strip()
    return [
        time.strftime("%H:%M:%S" if is_today else "%Y-%m-%d %H:%M:%S", at),
        one.model,
        names.get(one.node_id, one.node_id) + after_node,
        one.client,
        show.text(status, "red" if one.error else "green"),
        show.ms(one.ttft_ms),
        show.ms(one.total_ms),
    ]
