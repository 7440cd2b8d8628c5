"""What a real Ollama refuses and with which words: the checks before a request gets a runner."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ollama_herd.core.names import canonical_name
from tests.fakes.gojson import GoJsonError, decode_object, dumps, kind_of
from tests.fakes.models import FakeModel
from tests.fakes.wire import JSON_UTF8, Request

_ANTHROPIC_TYPES = {400: "invalid_request_error", 404: "not_found_error", 503: "overloaded_error"}
_OPENAI_TYPES = {400: "invalid_request_error", 404: "not_found_error"}
_DURATION = re.compile(r"^[-+]?(\d+(\.\d*)?(ns|us|µs|ms|s|m|h))+$")
_UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_NAME = re.compile(r"^[\w][\w.\-:/]*$")
_THINK_LEVELS = ("high", "medium", "low", "max")

QUEUE_FULL = "server busy, please try again.  maximum pending requests exceeded"
NO_EMBEDDINGS = "This server does not support embeddings. Start it with `--embeddings`"

_STRUCTS: Mapping[str, tuple[str, Mapping[str, tuple[str, str]]]] = {
    "/api/chat": (
        "ChatRequest",
        {"model": ("string", "string"), "messages": ("array", "[]api.Message")},
    ),
    "/api/generate": (
        "GenerateRequest",
        {"model": ("string", "string"), "prompt": ("string", "string")},
    ),
    "/api/embed": ("EmbedRequest", {"model": ("string", "string")}),
    "/api/show": ("ShowRequest", {"model": ("string", "string")}),
    "/v1/chat/completions": (
        "ChatCompletionRequest",
        {"model": ("string", "string"), "messages": ("array", "[]openai.Message")},
    ),
}


@dataclass
class RefusedError(Exception):
    """An answer instead of a generation. `is_inner`: said behind the dialect's middleware, which
    writes `application/json` and a newline."""

    status: int
    message: str
    is_inner: bool = True


def dialect_of(path: str) -> str:
    """Whose error shape a path answers in."""
    if path == "/v1/messages":
        return "anthropic"
    return "openai" if path.startswith("/v1/") else "ollama"


def render(refused: RefusedError, path: str) -> tuple[int, str, bytes]:
    """Status, content type and body in the dialect of the path."""
    status, message = refused.status, refused.message
    dialect = dialect_of(path)
    if dialect == "ollama":
        return status, JSON_UTF8, dumps({"error": message})
    body: dict[str, Any]
    if dialect == "openai":
        kind = _OPENAI_TYPES.get(status, "api_error")
        error = {"message": message, "type": kind, "param": None, "code": None}
        body = {"error": error}
    else:
        error = {"type": _ANTHROPIC_TYPES.get(status, "api_error"), "message": message}
        body = {"type": "error", "error": error, "request_id": "req_" + "59ffbe6aeb469a753ee9f3ca"}
    if refused.is_inner:
        return status, "application/json", dumps(body) + b"\n"
    return status, JSON_UTF8, dumps(body)


def read_body(request: Request, path: str) -> dict[str, Any]:
    """The decoded request, or RefusedError with Go's words."""
    if not request.body:
        text = "missing request body" if dialect_of(path) == "ollama" else "EOF"
        raise RefusedError(400, text, is_inner=False)
    if request.is_cut:
        raise RefusedError(400, "unexpected EOF", is_inner=False)
    try:
        asked = decode_object(request.body)
    except GoJsonError as error:
        raise RefusedError(400, str(error), is_inner=False) from None
    _check_types(asked, path)
    keep_alive_s(asked)
    _check_think(asked)
    return asked


def _check_types(asked: dict[str, Any], path: str) -> None:
    struct, fields = _STRUCTS.get(path, ("", {}))
    for name, (wanted, go_type) in fields.items():
        value = asked.get(name)
        if value is not None and kind_of(value) != wanted:
            raise RefusedError(
                400,
                f"json: cannot unmarshal {kind_of(value)} into Go struct field "
                f"{struct}.{name} of type {go_type}",
                is_inner=False,
            )


def _check_think(asked: dict[str, Any]) -> None:
    think = asked.get("think")
    if isinstance(think, str) and think and think not in _THINK_LEVELS:
        text = f'invalid think value: "{think}" (must be "high", "medium", "low", "max", '
        raise RefusedError(400, text + "true, or false)", is_inner=False)


def keep_alive_s(asked: dict[str, Any]) -> float | None:
    """Seconds, negative for ever, None when not said. Raises RefusedError for a bad duration."""
    value = asked.get("keep_alive")
    if value is None:
        return None
    if isinstance(value, int | float):
        return float(value)
    text = str(value)
    if re.fullmatch(r"[-+]?\d+(\.\d*)?", text) and text != "0":
        raise RefusedError(400, f'time: missing unit in duration "{text}"', is_inner=False)
    if text != "0" and not _DURATION.match(text):
        raise RefusedError(400, f'time: invalid duration "{text}"', is_inner=False)
    sign = -1.0 if text.startswith("-") else 1.0
    parts = re.findall(r"(\d+(?:\.\d*)?)(ns|us|µs|ms|s|m|h)", text)
    return sign * sum(float(number) * _UNITS_S[unit] for number, unit in parts)


def check_options(asked: dict[str, Any]) -> dict[str, Any]:
    """The options; a wrong type is 500, null is not said, as in the real server."""
    options = asked.get("options") or {}
    for name in ("num_predict", "num_ctx", "seed", "top_k", "num_thread", "num_batch"):
        value = options.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise RefusedError(500, f'option "{name}" must be of type integer')
    return {name: value for name, value in options.items() if value is not None}


def check_format(asked: dict[str, Any]) -> None:
    """`json`, a schema or nothing."""
    wanted = asked.get("format")
    if isinstance(wanted, str) and wanted not in ("", "json"):
        shown = dumps(wanted).decode().replace('"', '\\"')
        raise RefusedError(
            500, f'invalid format: "{shown}"; expected "json" or a valid JSON Schema object'
        )


def find(models: Mapping[str, FakeModel], asked: dict[str, Any], path: str) -> FakeModel:
    """The model asked for. Raises RefusedError with the words of that endpoint."""
    name = str(asked.get("model") or asked.get("name") or "")
    if not name and path != "/api/generate":
        raise RefusedError(400, "model is required")
    if name and not is_name(name):
        raise RefusedError(400, "invalid model name")
    model = models.get(canonical_name(name)) if name else None
    if model is None:
        raise RefusedError(404, _not_found(name, path))
    return model


def is_name(name: str) -> bool:
    """Whether this can be the name of a model."""
    return bool(_NAME.match(name)) and " " not in name


def _not_found(name: str, path: str) -> str:
    if path in ("/api/embed", "/api/embeddings", "/v1/embeddings"):
        return f'model "{name}" not found, try pulling it first'
    if path in ("/api/show", "/v1/models"):
        return f"model '{name if ':' in name else name + ':latest'}' not found"
    return f"model '{name}' not found"


def check_capabilities(model: FakeModel, asked: dict[str, Any], *, is_chat: bool) -> None:
    """Chat, tools, thinking and insert must be something the model can do."""
    full = f"registry.ollama.ai/library/{model.name}"
    if "completion" not in model.capabilities:
        doing = "chat" if is_chat else "generate"
        raise RefusedError(400, f'"{asked["model"]}" does not support {doing}')
    if asked.get("tools") and "tools" not in model.capabilities:
        raise RefusedError(400, f"{full} does not support tools")
    if asked.get("suffix") and "insert" not in model.capabilities:
        raise RefusedError(400, f"{full} does not support insert")
    if asked.get("think") and "thinking" not in model.capabilities:
        raise RefusedError(400, f'"{asked["model"]}" does not support thinking')


def check_v1(asked: dict[str, Any], path: str) -> None:
    """What the OpenAI and Anthropic middlewares ask for."""
    if path == "/v1/chat/completions" and not asked.get("messages"):
        raise RefusedError(400, "[] is too short - 'messages'", is_inner=False)
    if path == "/v1/messages":
        max_tokens = asked.get("max_tokens")
        if not isinstance(max_tokens, int) or max_tokens <= 0:
            raise RefusedError(400, "max_tokens is required and must be positive", is_inner=False)
