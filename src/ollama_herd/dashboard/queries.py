"""What a dashboard URL asks of the traces. Pure: text in, values or a named mistake out."""

import re
from collections.abc import Collection, Mapping
from datetime import datetime
from math import isfinite

import msgspec

from ollama_herd.core.names import canonical_name

STATUSES = ("ok", "client_error", "server_error", "cancelled", "failed")
STATUS_CHOICES = f"{', '.join(STATUSES)}, or a status such as 404"

_STATUS = re.compile("[1-5][0-9][0-9]")

STEPS = {"minute": 60, "hour": 3600}

DEFAULT_LIMIT = 100
LARGEST_LIMIT = 500

FORMATS = ("csv", "jsonl")

LARGEST_EXPORT = 1_000_000
"""Traces of one export: minutes of work, in pages that let other questions through."""

LARGEST_TREND = 3000
"""Points of a curve: two days by minute; no screen shows more."""

MAX_TEXT_CHARS = 512
"""Longer than any stored label."""

_LATEST_S = 253_402_300_800.0
"""The year 10000: beyond it is a mistake, milliseconds for seconds most likely."""

_OFFSET = re.compile(r" (\d\d:\d\d)$")
"""Of a time whose + has become a space."""


class BadField(ValueError):  # noqa: N818 - an answer to a client, not a defect
    """A filter that cannot be used; `field` is the parameter."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field


class TraceQuery(msgspec.Struct, frozen=True):
    """All that is given must hold; "" and None ask for nothing. Times are seconds since 1970."""

    from_s: float | None = None
    until_s: float | None = None
    model: str = ""
    node: str = ""
    client: str = ""
    key_name: str = ""
    status: str = ""
    tag: str = ""
    error: str = ""
    limit: int = DEFAULT_LIMIT
    before: str = ""


class ExportQuery(msgspec.Struct, frozen=True):
    """All traces that match, newest first, up to `limit`; `page` asks for the first of them."""

    format: str
    page: TraceQuery
    limit: int


class TrendQuery(msgspec.Struct, frozen=True):
    """A stretch of time in buckets of `step_s`; of the whole fleet, one model or one node."""

    from_s: float
    until_s: float
    step_s: int
    model: str = ""
    node: str = ""


_TRACE_FIELDS = frozenset(
    {"from", "until", "model", "node", "client", "key", "status", "tag", "error"}
    | {"limit", "before"}
)
_TREND_FIELDS = frozenset({"from", "until", "step", "model", "node"})


def is_status(text: str) -> bool:
    """Whether traces can be filtered by it."""
    return text in STATUSES or _STATUS.fullmatch(text) is not None


def trace_query(given: Mapping[str, str]) -> TraceQuery:
    """Raises BadField, for an unknown parameter too."""
    _known(given, _TRACE_FIELDS)
    status = given.get("status", "")
    if status and not is_status(status):
        raise BadField("status", f"one of {STATUS_CHOICES}, not {_quoted(status)}")
    from_s, until_s = time_of(given, "from"), time_of(given, "until")
    _in_order(from_s, until_s)
    return TraceQuery(
        from_s=from_s,
        until_s=until_s,
        model=_model(given),
        node=_text(given, "node"),
        client=_text(given, "client"),
        key_name=_text(given, "key"),
        status=status,
        tag=_text(given, "tag"),
        error=_text(given, "error"),
        limit=_limit(given, DEFAULT_LIMIT, LARGEST_LIMIT),
        before=_text(given, "before"),
    )


def export_query(given: Mapping[str, str]) -> ExportQuery:
    """As `trace_query`, and `format`. Raises BadField."""
    format_ = given.get("format", FORMATS[0])
    if format_ not in FORMATS:
        raise BadField("format", f"one of {', '.join(FORMATS)}, not {_quoted(format_)}")
    others = {name: value for name, value in given.items() if name not in {"format", "limit"}}
    limit = _limit(given, LARGEST_EXPORT, LARGEST_EXPORT)
    page = trace_query({**others, "limit": str(LARGEST_LIMIT)})
    return ExportQuery(format_, page, limit)


def trend_query(given: Mapping[str, str], now_s: float) -> TrendQuery:
    """The last day by hour unless told otherwise. Raises BadField."""
    _known(given, _TREND_FIELDS)
    step = given.get("step", "hour")
    if step not in STEPS:
        raise BadField("step", f"one of {', '.join(STEPS)}, not {_quoted(step)}")
    step_s = STEPS[step]
    until_s = time_of(given, "until")
    until_s = now_s if until_s is None else until_s
    from_s = time_of(given, "from")
    from_s = until_s - 86400.0 if from_s is None else from_s
    _in_order(from_s, until_s)
    if (until_s - from_s) / step_s > LARGEST_TREND:
        raise BadField("from", f"at most {LARGEST_TREND} steps of {step_s} s before the end")
    model, node = _model(given), _text(given, "node")
    if model and node:
        raise BadField("node", "trends are kept by model or by node, not by both")
    return TrendQuery(from_s=from_s, until_s=until_s, step_s=step_s, model=model, node=node)


def changes_limit(given: Mapping[str, str]) -> int:
    """How many changes to show. Raises BadField."""
    _known(given, {"limit"})
    return _limit(given, DEFAULT_LIMIT, LARGEST_LIMIT)


def _known(given: Mapping[str, str], fields: Collection[str]) -> None:
    for name in given:
        if name not in fields:
            raise BadField(name[:40], f"no such filter; there are {', '.join(sorted(fields))}")


def _text(given: Mapping[str, str], field: str) -> str:
    text = given.get(field, "")
    if len(text) > MAX_TEXT_CHARS:
        raise BadField(field, f"at most {MAX_TEXT_CHARS} characters")
    return text


def _model(given: Mapping[str, str]) -> str:
    """As traces name it: `llama3.2` is kept as `llama3.2:latest`."""
    name = _text(given, "model")
    return canonical_name(name) if name else ""


def _limit(given: Mapping[str, str], usual: int, most: int) -> int:
    text = given.get("limit", str(usual))
    if not (text.isascii() and text.isdigit() and len(text) <= 8 and int(text) >= 1):
        raise BadField("limit", f"a number from 1 to {most}, not {_quoted(text)}")
    if int(text) > most:
        raise BadField("limit", f"at most {most}")
    return int(text)


def time_of(given: Mapping[str, str], field: str) -> float | None:
    """Seconds since 1970, or RFC 3339 with its offset; None where nothing is given.

    A + that a client left unquoted in its URL has become a space. Raises BadField.
    """
    text = _OFFSET.sub(r"+\1", given.get(field, ""))
    if not text:
        return None
    if len(text) > 40:
        raise BadField(field, "too long for a time")
    try:
        seconds = float(text)
    except ValueError:
        seconds = _rfc3339(field, text)
    if not isfinite(seconds) or not 0 <= seconds < _LATEST_S:
        raise BadField(field, f"seconds since 1970, not {_quoted(text)}")
    return seconds


def _rfc3339(field: str, text: str) -> float:
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        parsed = None
    if parsed is None or parsed.tzinfo is None:
        raise BadField(
            field, f"seconds since 1970 or a time like 2026-01-31T12:00:00Z, not {_quoted(text)}"
        )
    return parsed.timestamp()


def _in_order(from_s: float | None, until_s: float | None) -> None:
    if from_s is not None and until_s is not None and from_s >= until_s:
        raise BadField("from", "must be before until")


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:39]}…")
