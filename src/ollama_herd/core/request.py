"""One request through the herd: what was asked, what was tried, how it ended. Frozen values."""

import enum

import msgspec


class Kind(enum.StrEnum):
    """What a request wants done; decides how it is predicted and whether it can be continued."""

    CHAT = "chat"
    GENERATE = "generate"
    EMBED = "embed"
    IMAGE = "image"  # text to pictures
    SPEECH = "speech"  # a recording to text


class Dialect(enum.StrEnum):
    """Whose wire format the caller speaks; errors go back in it."""

    OLLAMA = "ollama"
    OPENAI = "openai"
    ANTHROPIC = "anthropic"


class Priority(enum.IntEnum):
    """Interactive requests go before batch requests."""

    INTERACTIVE = 0
    BATCH = 1


class InferenceRequest(msgspec.Struct, frozen=True, gc=False):
    """What routing needs of a request. `arrived_s` is router monotonic seconds.

    `model` is as asked, `model_key` its canonical name. `prompt_tokens` is an estimate,
    `max_tokens` the client's own bound on the answer or None. `load_options` are the
    load-time options asked for explicitly, sorted (`(("num_ctx", 8192),)`).
    """

    request_id: str
    model: str
    model_key: str
    kind: Kind
    dialect: Dialect
    path: str
    arrived_s: float
    stream: bool = False
    prompt_tokens: int = 0
    max_tokens: int | None = None
    load_options: tuple[tuple[str, int | bool], ...] = ()
    client: str = ""
    priority: Priority = Priority.INTERACTIVE
    fallback_models: tuple[str, ...] = ()
    is_load_only: bool = False  # an empty prompt: load (or unload), generate nothing
    # `prefix.block_chain` of the prompt; () when nobody computed it. Not for traces.
    prefix: tuple[int, ...] = ()
    # Of pictures and speech, which have no tokens to count: what there is to do, in units that
    # take about equally long (a step of a picture, a second of sound). 0 for all others.
    work: int = 0
    keep_alive_s: float | None = None  # how long the model is to be kept; None: not said


class OutcomeKind(enum.StrEnum):
    """How an attempt on one replica ended; also a metric label. Comments are shown to people."""

    COMPLETED = "completed"  # a whole answer
    CLIENT_ERROR = "client_error"  # the engine refused the request (4xx), which is the answer
    ENGINE_ERROR = "engine_error"  # the engine failed (5xx)
    ENGINE_BUSY = "engine_busy"  # the engine was busy (503)
    UNREACHABLE = "unreachable"  # no connection
    CLOSED_EARLY = "closed_early"  # closed before the first byte
    GARBAGE = "garbage"  # what came was no answer: not HTTP, or no JSON
    SILENT = "silent"  # nothing came in time
    TRUNCATED = "truncated"  # broke off before its end marker
    CANCELLED = "cancelled"  # the client left


class Attempt(msgspec.Struct, frozen=True, gc=False):
    """One try on one replica. Times in ms from the request's arrival, -1 where not reached."""

    node_id: str
    engine_id: str
    model: str
    outcome: OutcomeKind
    status: int = 0
    started_ms: float = -1.0
    first_byte_ms: float = -1.0
    ended_ms: float = -1.0
    detail: str = ""


class Usage(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Counts and durations of a finished answer, from its tail; None where the engine is silent."""

    prompt_tokens: int | None = None
    output_tokens: int | None = None
    load_ms: float | None = None
    prefill_ms: float | None = None
    decode_ms: float | None = None
    done_reason: str = ""


class RefusalKind(enum.StrEnum):
    """Why a request was not sent to any engine; also a metric label."""

    UNKNOWN_MODEL = "unknown_model"  # no node of the fleet has it
    NO_NODE = "no_node"  # the model is known, but no node that has it can be used now
    QUEUE_FULL = "queue_full"  # as many wait as may
    QUEUE_TIMEOUT = "queue_timeout"  # waited as long as a request may
    DRAINING = "draining"  # it still waited when the router shut down
    WRONG_KIND = "wrong_kind"  # the model is known, and does something else
    CLOUD_MODEL = "cloud_model"  # Ollama's cloud runs it, and the owner has not allowed that


class Refusal(msgspec.Struct, frozen=True, gc=False):
    """Why, what to do about it, and when to come back (seconds, 0: do not)."""

    kind: RefusalKind
    message: str
    retry_after_s: int = 0
