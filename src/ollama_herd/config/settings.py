"""Every setting of both processes, declared once with type, default and help.

Building a settings class reads nothing but its arguments; `load` brings file, environment and
flags. A settings object never changes; what is changed while a router runs (`live`) makes others.
"""

import ipaddress
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from ollama_herd.config.quiet import as_quiet_hours

HOME_VARIABLE = "HERD_HOME"
"""Where all state and the settings files live, for `herd` and `herd-node` alike."""

API_KEY_VARIABLE = "HERD_API_KEY"
"""The key that commands show to a herd that asks for one; no setting, since it is the user's."""

ROUTER_PORT = 11435
"""Next to Ollama's own 11434, so that both fit on one machine."""

OLLAMA_PORT = 11434
"""Where Ollama listens unless told otherwise."""

RELAY_PORT = 11436


def _as_home(value: object) -> object:
    if isinstance(value, str) and not value.strip():  # Path("") is the folder one stands in
        raise ValueError("it should name a folder")
    return _expanded(value) if isinstance(value, str | Path) else value


def _expanded(path: str | Path) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError("there is no such user's home") from error


def _lower(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


def _split_http(text: str) -> SplitResult:
    """Split an http(s) URL whose scheme may be missing; raises ValueError with what is wrong."""
    parts = urlsplit(text if "://" in text else f"http://{text}")
    if parts.scheme not in ("http", "https"):
        raise ValueError(f"{text!r} should begin with http://")
    if not parts.hostname:
        raise ValueError(f"{text!r} names no host")
    if parts.username or parts.query or parts.fragment:
        raise ValueError(f"{text!r} should be only http://HOST:PORT")
    _ = parts.port  # raises ValueError when it is no port
    return parts


def _netloc(parts: SplitResult, port: int) -> str:
    host = parts.hostname or ""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _as_router(value: object) -> object:
    """`host`, `host:port` or a URL -> `http://host:port`; without a port it is the router's."""
    if not isinstance(value, str) or not value.strip():
        return value
    parts = _split_http(value.strip())
    if parts.path not in ("", "/"):
        raise ValueError(f"{value!r} should have no path: http://HOST:{ROUTER_PORT}")
    usual = 443 if parts.scheme == "https" else ROUTER_PORT
    return f"{parts.scheme}://{_netloc(parts, parts.port or usual)}"


def _as_collector(value: object) -> object:
    """A URL without a trailing slash; its paths (`/v1/traces`) are added by the exporter."""
    if not isinstance(value, str) or not value.strip():
        return value
    parts = _split_http(value.strip())
    return f"{parts.scheme}://{_netloc(parts, parts.port or 4318)}{parts.path.rstrip('/')}"


def _as_engine(text: str) -> str:
    """As Ollama reads OLLAMA_HOST: without scheme and port it is 11434, `http://host` is 80."""
    parts = _split_http(text)
    if parts.scheme != "http":
        raise ValueError(f"{text!r}: an engine is reached over plain http://HOST:PORT")
    if parts.path.rstrip("/") not in ("", "/v1"):  # people paste OpenAI base URLs
        raise ValueError(f"{text!r} should have no path: http://HOST:PORT")
    return f"http://{_netloc(parts, parts.port or (80 if '://' in text else OLLAMA_PORT))}"


def _as_engines(value: object) -> object:
    """One text with commas or blanks (a variable), or a list (flags, file)."""
    if isinstance(value, str):
        value = value.replace(",", " ").split()
    if isinstance(value, Sequence) and all(isinstance(item, str) for item in value):
        return tuple(dict.fromkeys(_as_engine(item.strip()) for item in value))
    return value


def _as_words(value: object) -> object:
    """One text with commas or blanks (a variable), or a list (flags, file), without repetition."""
    if isinstance(value, str):
        value = value.replace(",", " ").split()
    if isinstance(value, Sequence) and all(isinstance(item, str) for item in value):
        return tuple(dict.fromkeys(item.strip().lower() for item in value))
    return value


def _check_hosts(hosts: tuple[str, ...]) -> tuple[str, ...]:
    for host in hosts:
        if "/" in host or ":" in host or not host.strip(".*"):
            if host == "*":
                continue
            raise ValueError(f"{host!r} should be a name such as herd.example.com, without a port")
    return tuple(host.removeprefix("*") if host != "*" else host for host in hosts)


def _check_origins(origins: tuple[str, ...]) -> tuple[str, ...]:
    for origin in origins:
        scheme, _, rest = origin.partition("://")
        if origin != "*" and (not scheme or not rest or "/" in rest):
            raise ValueError(f"{origin!r} should be like https://app.example.com")
    return origins


def _check_networks(networks: tuple[str, ...]) -> tuple[str, ...]:
    for network in networks:
        if network not in ("private", "any"):
            try:
                ipaddress.ip_network(network, strict=False)
            except ValueError:
                raise ValueError(
                    f"{network!r} should be private, any, or a network such as 203.0.113.0/24"
                ) from None
    return networks


def _as_database(value: object) -> object:
    """Only the kind is looked at here; the message never repeats the value, which is a secret."""
    if not isinstance(value, str) or not value.strip():
        return value
    if not value.strip().startswith(("postgresql://", "postgres://", "postgresql+psycopg://")):
        raise ValueError("it should be postgresql://user:password@host:5432/database")
    return value.strip()


Words = NoDecode, BeforeValidator(_as_words)


def _as_servers(value: object) -> object:
    """Like `_as_engines`, each with `NAME=` before its URL where the server names no model."""
    if isinstance(value, str):
        value = value.replace(",", " ").split()
    if isinstance(value, Sequence) and all(isinstance(item, str) for item in value):
        return tuple(dict.fromkeys(_as_server(item.strip()) for item in value))
    return value


def _as_server(text: str) -> str:
    name, separator, url = text.rpartition("=")
    if separator and not name.strip():
        raise ValueError(f"{text!r} has no name before '='")
    if separator:
        return f"{name.strip()}={_as_engine(url.strip())}"
    return _as_engine(text)


Servers = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_as_servers)]


def _check_distinct(servers: tuple[str, ...]) -> tuple[str, ...]:
    """Each of them is a node of its own."""
    seen: set[str] = set()
    for server in servers:
        name, _, url = server.rpartition("=")
        if len(name) > 100:
            raise ValueError(f"{name[:20]!r}… is longer than 100 characters")
        if url in seen:
            raise ValueError(f"{url} is given twice")
        seen.add(url)
    return servers


def _as_file(value: object) -> object:
    return _expanded(value) if isinstance(value, str | Path) and str(value) else None


File = Annotated[Path | None, BeforeValidator(_as_file)]
Home = Annotated[Path, BeforeValidator(_as_home)]
Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=86400 * 365, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
DatabaseUrl = Annotated[str, BeforeValidator(_as_database)]
LogLevel = Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)]

DEFAULT_HOME = Path("~/.ollama-herd")


class Settings(BaseSettings):
    """Common to both processes. Built directly, it takes only what it is given."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", validate_default=True, env_ignore_empty=True
    )

    env_prefix: ClassVar[str]
    file_name: ClassVar[str]

    home: Home = Field(
        default=DEFAULT_HOME, description="folder of all state and of the settings file"
    )
    log_level: LogLevel = Field(default="info", description="least severe message that is shown")
    log_file: str = Field(
        default="",
        description="file for the log as JSON, beside what is shown; a bare name lies in the home",
    )
    log_file_max_bytes: Annotated[int, Field(ge=10_000)] = Field(
        default=20_000_000, description="size at which a new log file begins; five old ones stay"
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_switch_for_a_number(cls, value: object, info: ValidationInfo) -> object:
        """To Python true is 1, and so to pydantic."""
        field = cls.model_fields[info.field_name or ""]
        if isinstance(value, bool) and field.annotation in (int, float):
            raise ValueError("input should be a number")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the signature is pydantic's
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only arguments: `load` brings the other sources, to tell them apart."""
        return (init_settings,)


class RouterSettings(Settings):
    """Settings of `herd`: flags, HERD_* and herd.toml."""

    env_prefix: ClassVar[str] = "HERD_"
    file_name: ClassVar[str] = "herd.toml"

    host: str = Field(default="0.0.0.0", min_length=1, description="address to listen on")
    port: Port = Field(default=ROUTER_PORT, description="port to listen on; 0 takes a free one")
    allowed_clients: Annotated[tuple[str, ...], *Words, AfterValidator(_check_networks)] = Field(
        default=("private",),
        description="networks whose clients are answered: private, any, or such as 203.0.113.0/24",
    )
    allowed_hosts: Annotated[tuple[str, ...], *Words, AfterValidator(_check_hosts)] = Field(
        default=(),
        description="further names of the herd in URLs: herd.example.com, .example.com, or *",
    )
    allowed_origins: Annotated[tuple[str, ...], *Words, AfterValidator(_check_origins)] = Field(
        default=(),
        description="further origins whose pages may use the herd: https://app.example.com, or *",
    )
    tls_cert: File = Field(
        default=None, description="certificate chain to answer with over TLS, in PEM"
    )
    tls_key: File = Field(default=None, description="its key, in PEM, without a password")
    join: Annotated[Literal["auto", "key", "approve"], BeforeValidator(_lower)] = Field(
        default="auto",
        description="how machines join: all of private networks, with a join key, or once approved",
    )
    max_nodes: Count = Field(default=1000, description="nodes that may join")
    engine: Annotated[Servers, AfterValidator(_check_distinct)] = Field(
        default=(),
        description="URL of an engine on a machine without herd-node; NAME=URL names the machine",
    )
    mdns: bool = Field(default=True, description="announce the router on the local network")
    heartbeat_s: Seconds = Field(default=2.0, description="seconds between two reports of a node")
    data_plane: Literal["raw", "aiohttp"] = Field(
        default="raw",
        description="what carries inference requests: own protocol, or the slower aiohttp",
    )
    max_body_bytes: Count = Field(default=256 * 2**20, description="largest accepted request body")
    max_upload_bytes: Count = Field(
        default=2 * 2**30, description="largest accepted recording; long ones wait on the disk"
    )
    max_header_bytes: Annotated[int, Field(ge=1024)] = Field(
        default=16384, description="largest accepted request head"
    )
    header_timeout_s: Seconds = Field(
        default=30, description="seconds a client may take for its head"
    )
    body_timeout_s: Seconds = Field(
        default=60, description="seconds without a byte of a request body"
    )
    idle_timeout_s: Seconds = Field(
        default=300, description="seconds an idle client connection is kept"
    )
    upload_timeout_s: Seconds = Field(
        default=600, description="seconds a client may take for a whole request body"
    )
    max_connections_per_client: Annotated[int, Field(ge=0)] = Field(
        default=0, description="connections open at once from one address; 0 is no limit"
    )
    requests_per_minute_per_client: Annotated[int, Field(ge=0)] = Field(
        default=0, description="inference requests from one address; more get 429; 0 is no limit"
    )
    max_connections: Count = Field(default=20000, description="client connections open at once")
    connect_timeout_s: Seconds = Field(default=5, description="seconds to connect to an engine")
    queue_limit: Annotated[int, Field(ge=0)] = Field(
        default=1000, description="requests that may wait, over all models; more get 503"
    )
    queue_timeout_s: Seconds = Field(default=600, description="seconds a request may wait")
    max_attempts: Count = Field(default=3, description="nodes tried for one request")
    policy: Literal["expected-completion", "least-requests", "round-robin"] = Field(
        default="expected-completion",
        description="how a node is chosen; the others are there to compare with the first",
    )
    placement: bool = Field(
        default=True,
        description="load a busy model on a further node that has it, before requests go there; "
        "keep in memory what will soon be asked for again",
    )
    hedge: bool = Field(
        default=True, description="ask a second node when an engine is silent for too long"
    )
    hedge_floor_s: Seconds = Field(
        default=10, description="seconds without a first byte that are never too long"
    )
    hedge_ceiling_s: Seconds = Field(
        default=120, description="seconds without a first byte that are always too long"
    )
    continue_streams: bool = Field(
        default=True, description="let another node go on with a plain text that broke off"
    )
    kept_bytes: Annotated[int, Field(ge=0)] = Field(
        default=256 * 2**20,
        description="memory for answers under way, kept in case another node has to go on",
    )
    sse_keepalive_s: Annotated[float, Field(ge=0, le=86400, allow_inf_nan=False)] = Field(
        default=0,
        description="seconds of silence after which an event stream gets a comment; 0 for none",
    )
    stall_floor_s: Seconds = Field(
        default=20, description="seconds of silence within a stream that are never too long"
    )
    stall_ceiling_s: Seconds = Field(
        default=120, description="seconds of silence within a stream that are always too long"
    )
    canary_s: Annotated[float, Field(ge=0, le=86400, allow_inf_nan=False)] = Field(
        default=120,
        description="seconds between two one-token checks of an idle loaded model; 0 for none",
    )
    cloud_models: bool = Field(
        default=False,
        description="offer models that Ollama's cloud runs; prompts to them leave your network",
    )
    fallbacks: bool = Field(
        default=True, description="let requests name other models that may answer instead"
    )
    priorities: bool = Field(
        default=True, description="let requests say that they may wait behind the others"
    )
    allow_destructive: bool = Field(
        default=True,
        description="let clients pull, push, create, copy, delete and upload; else they get 403",
    )
    drain_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        default=3, description="seconds running requests get to end after the first signal"
    )
    traces: bool = Field(default=True, description="keep a trace (no text) of each request")
    trace_retention_days: Count = Field(default=30, description="days a trace is kept")
    trace_max_rows: Count = Field(default=2_000_000, description="traces kept at most")
    trace_max_bytes: Annotated[int, Field(ge=0)] = Field(
        default=2 * 2**30, description="bytes that traces may take on disk; 0 is no limit"
    )
    database_url: DatabaseUrl = Field(
        default="",
        repr=False,  # it holds a password
        description="PostgreSQL to keep everything in, instead of herd.db in the home folder",
    )
    otel_endpoint: Annotated[str, BeforeValidator(_as_collector)] = Field(
        default="",
        description="URL of an OpenTelemetry collector (OTLP over HTTP); nothing is sent without",
    )


class NodeSettings(Settings):
    """Settings of `herd-node`: flags, HERD_NODE_* and node.toml."""

    env_prefix: ClassVar[str] = "HERD_NODE_"
    file_name: ClassVar[str] = "node.toml"

    router: Annotated[str, BeforeValidator(_as_router)] = Field(
        default="", description="URL of the router; found by mDNS when not given"
    )
    engine: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_as_engines)] = Field(
        default=(),
        description="URL of an engine; Ollama at OLLAMA_HOST or its default when not given",
    )
    image_engine: Servers = Field(
        default=(),
        description="URL of an OpenAI-compatible image server; MODEL=URL where it lists no models",
    )
    speech_engine: Servers = Field(
        default=(),
        description="the same for transcription servers: whisper.cpp, Speaches, vLLM and others",
    )
    services: bool = Field(
        default=True,
        description="offer what is installed here for pictures and speech: mflux, DiffusionKit, "
        "Qwen3-ASR",
    )
    service_timeout_s: Seconds = Field(
        default=900, description="seconds a picture or a transcription made here may take"
    )
    name: Annotated[str, Field(max_length=100)] = Field(
        default="", description="name of this node; the host name when not given"
    )
    router_ca: File = Field(
        default=None,
        description="CA that the router's certificate must be from, in PEM; needs https:// then",
    )
    join_key: Annotated[str, Field(max_length=200, pattern=r"^[\x21-\x7e]*$")] = Field(
        default="",
        repr=False,  # a secret
        description="what a router with --join key asks for, once: printed by 'herd nodes join'",
    )
    relay_port: Port = Field(
        default=RELAY_PORT,
        description="port where the router reaches engines of this node; 0 takes any",
    )
    slots: Count | None = Field(
        None,
        description="requests of one model that an engine runs at once; learned when not given",
    )
    quiet_hours: Annotated[tuple[str, ...], NoDecode, BeforeValidator(as_quiet_hours)] = Field(
        default=(),
        description="when this node takes no new requests, by its own clock: 22:00-07:00, or "
        "mon-fri 22:00-07:00; several with commas",
    )
