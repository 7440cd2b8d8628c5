"""What a client tells the herd beside its request: how urgent it is, and what it belongs to.

Tags are labels for filters and sums, never read for routing. They come in
`X-Herd-Tags: nightly, team=search`, and as OpenAI's `user` and `metadata` (Anthropic's
`metadata.user_id`), which become `user=…` and `key=value`. Pure, and never a reason to refuse.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from ollama_herd.core.request import Priority

PRIORITY_HEADER: Final = b"x-herd-priority"
TAGS_HEADER: Final = b"x-herd-tags"
TRACE_HEADER: Final = b"traceparent"
FOR_THE_HERD: Final = frozenset({PRIORITY_HEADER, TAGS_HEADER, TRACE_HEADER})

MAX_TRACE_PARENT_CHARS: Final = 128
"""W3C's version 0 has 55; later ones may add to it."""

MAX_TAGS: Final = 16
"""Of one request, as many as OpenAI allows pairs of metadata; more are left out."""

MAX_TAG_CHARS: Final = 96
"""Of one tag; the rest is cut. A tag is a label, no place for a text."""

Headers = Sequence[tuple[bytes, bytes]]
"""Names in lower case."""


def priority_of(headers: Headers) -> Priority:
    """Batch where the client says so."""
    for name, value in headers:
        if name == PRIORITY_HEADER and value.strip().lower() == b"batch":
            return Priority.BATCH
    return Priority.INTERACTIVE


def tags_of(headers: Headers) -> tuple[str, ...]:
    """The tags of all `X-Herd-Tags`, which separate them by commas."""
    texts: list[str] = []
    for name, value in headers:
        if name == TAGS_HEADER:
            texts += value.decode("utf-8", "replace").split(",")
    return _bounded(texts)


def trace_parent_of(headers: Headers) -> str:
    """The span of which the request is a part, as the client names it (W3C trace context)."""
    for name, value in headers:
        if name == TRACE_HEADER and len(value) <= MAX_TRACE_PARENT_CHARS:
            return value.decode("latin-1").strip()
    return ""


def body_tags(user: msgspec.Raw | None, metadata: msgspec.Raw) -> tuple[str, ...]:
    """The tags of a body: `user` when it is a text, and the plain values of `metadata`."""
    found = []
    name = _decoded(user)
    if isinstance(name, str):
        found.append(f"user={name}")
    pairs = _decoded(metadata)
    if isinstance(pairs, dict):
        for key, one in pairs.items():
            if isinstance(one, str | int | float):
                text = str(one).lower() if isinstance(one, bool) else str(one)
                found.append(f"{'user' if key == 'user_id' else key}={text}")
    return _bounded(found)


def _decoded(raw: msgspec.Raw | None) -> object:
    if raw is None or not len(raw):
        return None
    try:
        return msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _bounded(texts: Iterable[str]) -> tuple[str, ...]:
    cut = (text.strip()[:MAX_TAG_CHARS] for text in texts)
    return tuple(dict.fromkeys(text for text in cut if text))[:MAX_TAGS]
