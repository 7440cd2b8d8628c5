"""Traces as CSV: a column a field that one sums, filters or plots. Pure."""

import csv
import io
from collections.abc import Iterable
from typing import Final

from ollama_herd.store.stored import StoredTrace

COLUMNS: Final = (
    "request_id",
    "started_s",
    "client",
    "key_name",
    "path",
    "dialect",
    "kind",
    "model_asked",
    "model_served",
    "node_id",
    "status",
    "error",
    "attempt_count",
    "stream",
    "queue_ms",
    "load_ms",
    "prefill_ms",
    "decode_ms",
    "ttft_ms",
    "total_ms",
    "predicted_ttft_ms",
    "predicted_total_ms",
    "prompt_tokens",
    "output_tokens",
    "reason",
    "hedged",
    "continued",
)
"""Fields of StoredTrace; after them the tags, separated by `;`."""

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n")
"""A text that begins so is a formula to spreadsheets, and anybody can name a model."""

_CONTROL: Final = dict.fromkeys((*range(32), *range(127, 160)), "\ufffd")
"""A line of CSV is a trace, and steers no terminal: JSONL has such texts as they are."""


def csv_head() -> bytes:
    """The line of names."""
    return _written([(*COLUMNS, "tags")])


def csv_lines(traces: Iterable[StoredTrace]) -> bytes:
    """A line a trace."""
    return _written(
        (*(_cell(getattr(trace, name)) for name in COLUMNS), _cell(";".join(trace.tags)))
        for trace in traces
    )


def _cell(value: object) -> object:
    if not isinstance(value, str):
        return value
    mark = "'" if value.startswith(_FORMULA) else ""
    return mark + value.translate(_CONTROL)


def _written(rows: Iterable[Iterable[object]]) -> bytes:
    out = io.StringIO(newline="")
    csv.writer(out).writerows(rows)
    return out.getvalue().encode("utf-8", "replace")
