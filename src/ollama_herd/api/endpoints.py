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

_MEDIA_ROWS = (
    Endpoint("/v1/images/generations", Kind.IMAGE, Dialect.OPENAI),
    Endpoint("/api/generate-image", Kind.IMAGE, Dialect.OLLAMA),
    Endpoint("/v1/images/edits", Kind.IMAGE, Dialect.OPENAI),
    Endpoint("/v1/audio/transcriptions", Kind.SPEECH, Dialect.OPENAI),
    Endpoint("/v1/audio/translations", Kind.SPEECH, Dialect.OPENAI),
    Endpoint("/api/transcribe", Kind.SPEECH, Dialect.OLLAMA),
)

MEDIA: Mapping[bytes, Endpoint] = MappingProxyType({row.path.encode(): row for row in _MEDIA_ROWS})
"""Pictures and speech. They take seconds and their bodies may be recordings, so they do not go
over the data plane of text; what follows the reading of the body is the same."""

INFERENCE: Mapping[bytes, Endpoint] = MappingProxyType({row.path.encode(): row for row in _ROWS})
"""By raw path, as it stands in the request line without the query."""


def dialect_of(path: str) -> Dialect:
    """The dialect in which any path of the router answers errors."""
    if path.startswith("/v1/messages"):
        return Dialect.ANTHROPIC
    if path.startswith("/v1/"):
        return Dialect.OPENAI
    return Dialect.OLLAMA
