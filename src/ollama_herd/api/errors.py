"""Every error a caller can get, in the shape a real Ollama gives it on that path.

`ApiError` says what is wrong; `render` writes it in the caller's dialect; `stream_error` ends a
stream that broke after its first byte. Messages name the reason and what to do. The texts of
Ollama 0.33 are held by recorded exchanges; the herd's own are written here and nowhere else.
"""

import json
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import msgspec

from ollama_herd.api.dialects import DIALECTS
from ollama_herd.api.endpoints import Endpoint
from ollama_herd.api.gojson import encode_string
from ollama_herd.core.names import DEFAULT_TAG
from ollama_herd.core.request import (
    Attempt,
    Dialect,
    Kind,
    OutcomeKind,
    Refusal,
    RefusalKind,
)

JSON = b"application/json"
JSON_UTF8 = b"application/json; charset=utf-8"
TEXT = b"text/plain"

DEFAULT_RETRY_AFTER_S = 2
"""When nothing better is known: one heartbeat, the time in which the fleet can change."""


class ApiError(msgspec.Struct, frozen=True):
    """Why a request is not answered, before any byte of an answer.

    `code` is stable and for traces and metrics. `raw` is a body that goes out as it is, in plain
    text, whatever the dialect. `at_door` marks what a real server finds before its handlers run:
    on `/v1` such an answer names its charset and has no newline at its end. `allow` is the value
    of the Allow header of a 405.
    """

    status: int
    message: str
    code: str
    retry_after_s: int = 0
    raw: bytes | None = None
    at_door: bool = False
    allow: str = ""


def render(
    error: ApiError, dialect: Dialect, path: str, request_id: str = ""
) -> tuple[int, bytes, bytes]:
    """Status, content type and body of `error` for a caller of `path`.

    `request_id` makes Anthropic's `request_id`; without one it is derived from the message.
    Retry-After and Allow are headers: the caller takes them from `error`.
    """
    if error.raw is not None:
        return error.status, TEXT, error.raw
    message = encode_string(_encodable(error.message))
    manner = DIALECTS[dialect]
    body = manner.whole_error(error.status, message, request_id or f"{path} {error.message}")
    if manner.says_charset or error.at_door:
        return error.status, JSON_UTF8, body.encode()
    return error.status, JSON, body.encode() + b"\n"


def _encodable(text: str) -> str:
    """Text without lone surrogates, which JSON can name and UTF-8 cannot write."""
    return text.encode("utf-8", "replace").decode()


def stream_error(message: str, dialect: Dialect, path: str, sent: bytes = b"") -> bytes:
    """The last bytes of a stream that broke: an error that SDKs raise, never a silent end.

    `sent` is the end of what the client has got; an event that was cut in its middle is closed
    first, so that the error stands on its own. Nothing follows it: no [DONE], no message_stop.
    """
    # Pure ASCII: httpx splits lines at U+0085 and U+2028 as well, and ollama-python then fails.
    text = json.dumps(_encodable(message))
    manner = DIALECTS[dialect]
    gap = b"" if not sent or sent.endswith(manner.frame_ends) else manner.frame_ends[0]
    return gap + manner.streamed_error(text, path).encode()


def late_error(body: bytes, dialect: Dialect, path: str) -> bytes:
    """The only event of a stream whose head was out before it turned out that `body`, an error as
    it would have been the whole answer, is all there is to say. OpenAI's or Anthropic's dialect.
    """
    try:
        said = json.loads(body)
    except ValueError:
        said = None
    error = said.get("error") if isinstance(said, dict) else None
    if not isinstance(error, dict) or path == "/v1/responses":
        message = error.get("message") if isinstance(error, dict) else error
        text = message if isinstance(message, str) else body[:300].decode("utf-8", "replace")
        return stream_error(text or "no node could answer", dialect, path)
    event = DIALECTS[dialect].event
    return f"{event}data: {json.dumps(said, separators=(',', ':'))}\n\n".encode()


# --- what a real Ollama says -------------------------------------------------------------------


def not_found() -> ApiError:
    """No such path."""
    return ApiError(404, "404 page not found", "not_found", raw=b"404 page not found")


def method_not_allowed(allow: str) -> ApiError:
    """The path is there, but not for this method; `allow` as in `HEAD, GET`."""
    message = "405 method not allowed"
    return ApiError(405, message, "method_not_allowed", raw=message.encode(), allow=allow)


def bad_body(message: str) -> ApiError:
    """The body cannot be read; `message` in the words of Go's decoder."""
    return ApiError(400, message, "bad_body", at_door=True)


def missing_body(dialect: Dialect) -> ApiError:
    """No body, or nothing but white space."""
    return bad_body(DIALECTS[dialect].no_body)


def missing_model(endpoint: Endpoint, model: str = "") -> ApiError:
    """No model is named (`model` is empty or white space)."""
    if endpoint.dialect is Dialect.ANTHROPIC:
        return ApiError(400, "model is required", "missing_model", at_door=True)
    if endpoint.kind is Kind.CHAT or endpoint.path == "/api/embeddings":
        return ApiError(400, "model is required", "missing_model")
    return ApiError(404, f"model '{model}' not found", "missing_model")


def unknown_model(model: str, endpoint: Endpoint) -> ApiError:
    """No node of the fleet has `model` (as asked); a name no model can have is said to be one."""
    if not model.strip():
        return missing_model(endpoint, model)
    base, source = _source_suffix(model.strip())
    if source and _source_suffix(base)[1]:
        message = f"use either :local or :cloud, not both: {_go_quoted(model.strip())}"
        return ApiError(400, message, "bad_model_name")
    if not is_model_name(base):
        return ApiError(400, "invalid model name", "bad_model_name")
    if endpoint.kind is Kind.EMBED:
        message = f"model {_go_quoted(model)} not found, try pulling it first"
        return ApiError(404, message, "unknown_model")
    return ApiError(404, f"model '{model}' not found", "unknown_model")


def unknown_listed_model(model: str) -> ApiError:
    """`/api/show` and `/v1/models/{model}` name the tag they looked for."""
    tagged = model if ":" in model.rsplit("/", 1)[-1] else f"{model}:{DEFAULT_TAG}"
    return ApiError(404, f"model '{tagged}' not found", "unknown_model")


_NAME_PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"
_MODEL_NAME = re.compile(
    r"(?:(?:(?:[a-z]+://)?[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}/)?"  # host
    r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}/)?"  # namespace
    rf"{_NAME_PART}(?::{_NAME_PART})?"
)
"""types/model/name.go of Ollama: characters and lengths of the parts of a name."""


def is_model_name(name: str) -> bool:
    """Whether Ollama could have a model of this name."""
    return _MODEL_NAME.fullmatch(name) is not None


def _source_suffix(name: str) -> tuple[str, str]:
    """Takes `:cloud`, `-cloud` (of a tag) or `:local` off a name; "" when there is none."""
    base, colon, suffix = name.rpartition(":")
    lowered = suffix.strip().lower()
    if colon and lowered in ("cloud", "local"):
        return base, lowered
    if colon and "/" not in suffix and lowered.endswith("-cloud"):
        return f"{base}:{suffix.strip()[: -len('-cloud')]}", "cloud"
    return name, ""


def _go_quoted(text: str) -> str:
    """Go's %q for what a model name can hold."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


# --- what only a herd says ---------------------------------------------------------------------

_FAILURES: Mapping[OutcomeKind, str] = MappingProxyType(
    {
        OutcomeKind.UNREACHABLE: "could not be reached",
        OutcomeKind.CLOSED_EARLY: "closed the connection before it answered",
        OutcomeKind.GARBAGE: "answered with something else than HTTP and JSON",
        OutcomeKind.SILENT: "sent nothing in time",
        OutcomeKind.ENGINE_ERROR: "failed with status {status}",
        OutcomeKind.ENGINE_BUSY: "was too busy",
        OutcomeKind.TRUNCATED: "broke off in the middle of its answer",
    }
)


def refused(refusal: Refusal, model: str, endpoint: Endpoint) -> ApiError:
    """The scheduler's refusal of a request for `model`, its message as it is."""
    if refusal.kind is RefusalKind.UNKNOWN_MODEL:
        return unknown_model(model, endpoint)
    if refusal.kind is RefusalKind.WRONG_KIND:
        return ApiError(400, refusal.message, refusal.kind.value)
    if refusal.kind is RefusalKind.CLOUD_MODEL:
        return ApiError(403, refusal.message, refusal.kind.value)
    return ApiError(
        503,
        refusal.message,
        refusal.kind.value,
        retry_after_s=refusal.retry_after_s or DEFAULT_RETRY_AFTER_S,
    )


def no_node(model: str, reasons: Sequence[str] = ()) -> ApiError:
    """Nodes have `model`, but none can serve it now; `reasons` like `mac-1 is offline`."""
    why = f": {'; '.join(reasons)}" if reasons else ""
    return ApiError(
        503,
        f"no node can serve model '{model}' now{why}. "
        f"Start one of the nodes that have it, or pull it onto another.",
        RefusalKind.NO_NODE.value,
        retry_after_s=DEFAULT_RETRY_AFTER_S,
    )


def attempts_failed(
    model: str, attempts: Sequence[Attempt], names: Mapping[str, str] = MappingProxyType({})
) -> ApiError:
    """Every attempt failed before its first byte: 504 when all were silent, 503 when all were
    busy, else 502. `names` are the nodes' names by id.
    """
    if not attempts:
        return no_node(model)
    outcomes = {attempt.outcome for attempt in attempts}
    told = "; ".join(_told(attempt, names) for attempt in attempts)
    if outcomes == {OutcomeKind.ENGINE_BUSY}:
        message = f"server busy, please try again.  Every node that has '{model}' is busy: {told}"
        return ApiError(503, message, "engines_busy", retry_after_s=DEFAULT_RETRY_AFTER_S)
    message = (
        f"no node could answer for model '{model}': {told}. "
        f"Check that the engine runs there, then send the request again."
    )
    if outcomes == {OutcomeKind.SILENT}:
        return ApiError(504, message, "engines_silent")
    return ApiError(502, message, "engines_failed", retry_after_s=DEFAULT_RETRY_AFTER_S)


def _told(attempt: Attempt, names: Mapping[str, str]) -> str:
    failure = _FAILURES.get(attempt.outcome, f"ended as {attempt.outcome.value}")
    name = names.get(attempt.node_id, attempt.node_id)
    return f"{name} {failure.format(status=attempt.status)}"


def broken_stream(node: str, reason: str = "") -> str:
    """The message for `stream_error` when `node` stopped in the middle of its answer."""
    why = reason or "the connection to its engine was lost"
    return (
        f"the answer broke off on node '{node}': {why}. "
        f"What came so far is not the whole answer; send the request again."
    )


FOREIGN_ORIGIN = ApiError(403, "", "foreign_origin", raw=b"")
"""A page from elsewhere: 403 without a body, as a real Ollama answers (recording 195)."""

TWO_HOSTS = ApiError(400, "the request names two hosts", "two_hosts")
"""RFC 9112 3.2: nobody may guess which one was meant."""


NO_REQUEST = ApiError(400, "what came is no HTTP request", "no_request")
"""The first line is not of the form `METHOD path HTTP/1.1`."""

HTTP_VERSION = ApiError(
    505, "this version of HTTP is not spoken here; ask in HTTP/1.1", "http_version"
)
"""As Go's server: 505 for all but HTTP/1."""

CODING = ApiError(
    501, "of transfer codings only chunked is known; send the body as it is", "transfer_coding"
)
"""As Go's server: 501. What another coding has packed would be taken for the body itself."""

BAD_CHUNK = ApiError(400, "the chunks of the request body are malformed", "bad_chunk")
"""A chunk's size, end or trailer cannot be read, so the body has no end."""


def unknown_host(host: str) -> ApiError:
    """The request names a host that is none of the herd's names."""
    shown = host[:100]
    return ApiError(
        403,
        f"'{shown}' is no name of this herd; ask for it by its address or its own name, or add "
        f"the name to allowed_hosts",
        "unknown_host",
    )


def foreign_client(address: str) -> ApiError:
    """The client is outside of the networks that may ask."""
    return ApiError(
        403,
        f"clients at {address} may not use this herd: only private networks may; add the client's "
        f"network to allowed_clients",
        "foreign_client",
    )


def body_too_large(limit_bytes: int, setting: str = "max_body_bytes") -> ApiError:
    """The body is longer than `setting` allows, or "": than the path ever takes."""
    if setting:
        told = f"request body is larger than {limit_bytes} bytes; send less, or raise {setting}"
    else:
        told = (
            f"request body is larger than {limit_bytes} bytes; send less: "
            "that is all that this path takes"
        )
    return ApiError(413, told, "body_too_large")


def body_timeout(silent_s: float) -> ApiError:
    """No byte of the body came for so long."""
    return ApiError(
        408,
        f"no byte of the request body came for {silent_s:.0f} s; send the request again",
        "body_timeout",
    )


def body_too_slow(limit_s: float) -> ApiError:
    """The whole body took longer than it may."""
    return ApiError(
        408,
        f"the request body took longer than {limit_s:.0f} s; send it faster, or raise "
        "upload_timeout_s",
        "body_too_slow",
    )


def too_often(per_minute: int, retry_after_s: int) -> ApiError:
    """One address asks more often than it may."""
    return ApiError(
        429,
        f"more than {per_minute} requests a minute came from your address; try again in "
        f"{retry_after_s} s, or raise requests_per_minute_per_client",
        "too_often",
        retry_after_s=retry_after_s,
    )
