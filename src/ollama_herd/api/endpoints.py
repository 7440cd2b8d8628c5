"""The inference endpoints: one row each. A new one is a row here, never a copy of the path.

A `prompt` of /v1/completions is not held to Ollama's type: other engines take lists.
"""

from collections.abc import Mapping
from types import MappingProxyType

import msgspec

from ollama_herd.api.gotypes import BOOL, INT, MAP, STRING, GoBody, go_body, list_of
from ollama_herd.core.request import Dialect, Kind


class Endpoint(msgspec.Struct, frozen=True):
    """A path that runs a model.

    `translatable` says that an engine which speaks only the OpenAI dialect can serve it through
    `api/translate`. `prompt` is the key of the body that holds the prompt, `go` what a real Ollama
    checks of a body first.
    """

    path: str
    kind: Kind
    dialect: Dialect
    translatable: bool = False
    prompt: str = "messages"
    go: GoBody = GoBody()


_ROWS = (
    Endpoint(
        "/api/chat",
        Kind.CHAT,
        Dialect.OLLAMA,
        translatable=True,
        go=go_body(
            "api.ChatRequest",
            model=STRING,
            options=MAP,
            messages=list_of("api.Message"),
            stream=BOOL,
        ),
    ),
    Endpoint(
        "/api/generate",
        Kind.GENERATE,
        Dialect.OLLAMA,
        translatable=True,
        prompt="prompt",
        go=go_body("api.GenerateRequest", model=STRING, options=MAP, prompt=STRING, stream=BOOL),
    ),
    Endpoint(
        "/api/embed",
        Kind.EMBED,
        Dialect.OLLAMA,
        translatable=True,
        prompt="input",
        go=go_body("api.EmbedRequest", model=STRING, options=MAP),
    ),
    Endpoint(
        "/api/embeddings",
        Kind.EMBED,
        Dialect.OLLAMA,
        translatable=True,
        prompt="prompt",
        go=go_body("api.EmbeddingRequest", model=STRING, options=MAP, prompt=STRING),
    ),
    Endpoint(
        "/v1/chat/completions",
        Kind.CHAT,
        Dialect.OPENAI,
        go=go_body(
            "openai.ChatCompletionRequest",
            model=STRING,
            messages=list_of("openai.Message"),
            stream=BOOL,
        ),
    ),
    Endpoint(
        "/v1/completions",
        Kind.GENERATE,
        Dialect.OPENAI,
        prompt="prompt",
        go=go_body("openai.CompletionRequest", model=STRING, stream=BOOL),
    ),
    Endpoint(
        "/v1/embeddings",
        Kind.EMBED,
        Dialect.OPENAI,
        prompt="input",
        go=go_body("openai.EmbedRequest", model=STRING),
    ),
    Endpoint(
        "/v1/responses",
        Kind.CHAT,
        Dialect.OPENAI,
        prompt="input",
        go=go_body("openai.ResponsesRequest", model=STRING, stream=BOOL),
    ),
    Endpoint(
        "/v1/messages",
        Kind.CHAT,
        Dialect.ANTHROPIC,
        translatable=True,
        go=go_body(
            "anthropic.MessagesRequest",
            model=STRING,
            max_tokens=INT,
            messages=list_of("anthropic.MessageParam"),
            stream=BOOL,
        ),
    ),
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
