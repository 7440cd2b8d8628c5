"""Errors of an OpenAI engine as Ollama would say them."""

import msgspec

from ollama_herd.api.endpoints import Endpoint
from ollama_herd.api.errors import ApiError, render, unknown_model
from ollama_herd.api.openai_chunks import MAX_ERROR_CHARACTERS, error_text
from ollama_herd.api.translate_request import EngineCall
from ollama_herd.api.translate_values import tolerant_json
from ollama_herd.core.request import Dialect, Kind, OutcomeKind


class Failure(msgspec.Struct, frozen=True):
    """Why there is no (whole) answer. `message` is for the client only: engines quote requests."""

    outcome: OutcomeKind
    status: int
    message: str


UNFINISHED = Failure(
    OutcomeKind.TRUNCATED,
    502,
    "the engine stopped before its answer was complete; what came is only a part of it, "
    "send the request again",
)
GARBAGE = Failure(
    OutcomeKind.GARBAGE,
    502,
    "the engine's answer is not in the OpenAI format; check that the engine's address is that of "
    "an OpenAI-compatible server",
)
TOO_LARGE = Failure(
    OutcomeKind.GARBAGE, 502, "the engine's answer is larger than the herd takes; ask for less"
)

_NO_INPUT = "input is not supported"
"""What llama.cpp says to pictures and sounds for a model without a projector."""

_WHILE_RUNNING = "an error was encountered while running the model: "
"""How a real Ollama begins the error line of a stream whose model runner failed (recording 321)."""


def failed_status(status: int, body: bytes, call: EngineCall) -> Failure:
    """The failure in an answer of the engine with `status` (not 2xx) and `body`."""
    text = _body_text(body) or f"the engine answered with status {status} and gave no reason"
    return _mapped(status, text, call)


def failed_event(error: object, call: EngineCall) -> Failure:
    """The failure in an error object inside an answer that began with status 200."""
    code = error.get("code") if isinstance(error, dict) else None
    text = error_text({"error": error}) or "the engine gave no reason"
    if isinstance(code, int) and 400 <= code < 500:
        return _mapped(code, text, call)
    return _mapped(500, _WHILE_RUNNING + text, call)


def failed_text(line: bytes, call: EngineCall) -> Failure:
    """The failure in a bare text line inside an event stream."""
    return _mapped(500, _WHILE_RUNNING + _body_text(line.removeprefix(b"error:")), call)


def foreign_error(endpoint: Endpoint, status: int, body: bytes) -> tuple[int, bytes, bytes] | None:
    """Status, content type and body for an error (not 2xx) of an engine that speaks OpenAI's or
    Anthropic's dialect itself; None where it goes to the client as it is.

    llama.cpp calls pictures that its model cannot see a fault of its own (500), after which SDKs
    ask again, and writes its errors on `/v1/messages` in OpenAI's form.
    """
    text = _body_text(body)
    is_refusal = status == 500 and _NO_INPUT in text.lower()
    is_own_form = endpoint.dialect is Dialect.OPENAI or _is_anthropic(body)
    if is_own_form and not is_refusal:
        return None
    text = text or f"the engine answered with status {status} and gave no reason"
    error = ApiError(400 if is_refusal else status, text, "engine")
    return render(error, endpoint.dialect, endpoint.path)


def _is_anthropic(body: bytes) -> bool:
    try:
        value = tolerant_json(body)
    except ValueError:
        return False
    return isinstance(value, dict) and value.get("type") == "error"


def _mapped(status: int, text: str, call: EngineCall) -> Failure:
    """The status and words a real Ollama would have for what the engine says."""
    lower = text.lower()
    if status in {401, 403}:
        # The key is the herd's own, so the client can do nothing about it.
        return Failure(OutcomeKind.ENGINE_ERROR, 502, f"the engine refused the herd's key: {text}")
    if status < 400:
        return Failure(OutcomeKind.GARBAGE, 502, f"the engine answered with status {status}")
    outcome = _outcome(status)
    if status in {400, 404} and "model" in lower and _says_not_found(lower):
        status, text = 404, unknown_model(call.model, call.endpoint).message
    elif _NO_INPUT in lower:  # llama.cpp without a projector answers 500
        status = 400
    elif call.endpoint.kind is Kind.EMBED:
        status, text = _mapped_embed(status, text, lower)
        if call.is_legacy_embedding and status not in {502, 503}:
            status = 500  # recording 077: the older path knows no other
    return Failure(outcome, status, text)


def _mapped_embed(status: int, text: str, lower: str) -> tuple[int, str]:
    if "pooling type" in lower:
        # llama.cpp started with --embeddings for a model that is not made for it.
        return 501, text
    if status == 404:
        return 501, "this model's engine does not make embeddings"
    if any(words in lower for words in ("too large", "context size", "context length")):
        return 400, "the input length exceeds the context length"
    return status, text


def _says_not_found(lower: str) -> bool:
    return "not found" in lower or "does not exist" in lower


def _outcome(status: int) -> OutcomeKind:
    if status == 503:
        return OutcomeKind.ENGINE_BUSY
    return OutcomeKind.ENGINE_ERROR if status >= 500 else OutcomeKind.CLIENT_ERROR


def _body_text(body: bytes) -> str:
    """The message of an error body: JSON of a known shape, or plain text, never a page."""
    try:
        value = tolerant_json(body)
    except ValueError:
        value = None
    if isinstance(value, dict | list | str):
        return error_text(value)
    text = body[: 4 * MAX_ERROR_CHARACTERS].decode("utf-8", "replace").strip()
    return "" if text.startswith("<") else text[:MAX_ERROR_CHARACTERS]
