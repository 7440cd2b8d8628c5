"""The inference endpoints: one row each. A new one is a row here, never a copy of the path."""

from collections.abc import Mapping
from types import MappingProxyType

import msgspec

from ollama_herd.core.request import Dialect, Kind


class Endpoint(msgspec.Struct, frozen=True):
    """A path that runs a model.

    `streams_by_default` is what the absence of `stream` means. `translatable` says that an
    engine which speaks only the OpenAI dialect can serve it through `api/translate`.
    """

    path: str
    kind: Kind
    dialect: Dialect
    streams_by_default: bool = False
    translatable: bool = False


_ROWS = (
    Endpoint("/api/chat", Kind.CHAT, Dialect.OLLAMA, streams_by_default=True, translatable=True),
    Endpoint(
        "/api/generate", Kind.GENERATE, Dialect.OLLAMA, streams_by_default=True, translatable=True
    ),
    Endpoint("/api/embed", Kind.EMBED, Dialect.OLLAMA, translatable=True),
    Endpoint("/api/embeddings", Kind.EMBED, Dialect.OLLAMA, translatable=True),
    Endpoint("/v1/chat/completions", Kind.CHAT, Dialect.OPENAI),
    Endpoint("/v1/completions", Kind.GENERATE, Dialect.OPENAI),
    Endpoint("/v1/embeddings", Kind.EMBED, Dialect.OPENAI),
    Endpoint("/v1/responses", Kind.CHAT, Dialect.OPENAI),
    Endpoint("/v1/messages", Kind.CHAT, Dialect.ANTHROPIC, translatable=True),
)

INFERENCE: Mapping[bytes, Endpoint] = MappingProxyType({row.path.encode(): row for row in _ROWS})
"""By raw path, as it stands in the request line without the query."""


def dialect_of(path: str) -> Dialect:
    """The dialect in which any path of the router answers errors."""
    if path.startswith("/v1/messages"):
        return Dialect.ANTHROPIC
    if path.startswith("/v1/"):
        return Dialect.OPENAI
    return Dialect.OLLAMA
