"""What a machine is and says: reports as they come over the wire, and our belief about the node.

A `…Report` came from an agent; the bare noun is what the router believes. All values are frozen.
"""

import enum
from typing import Annotated

import msgspec
from msgspec import Meta

from ollama_herd.core.names import canonical_name, is_cloud_name

PROTOCOL_VERSION = 1
"""Version of the report an agent sends; the router accepts this one and older ones."""

STATIC_PREFIX = "static:"
"""How ids of nodes begin that have no agent; no agent may use such an id."""


Amount = Annotated[int, Meta(ge=0, le=2**63 - 1)]
"""Bytes, counts and sequence numbers. What is decoded from a report is held to its bounds; 64 bits
are what the store keeps."""

Port = Annotated[int, Meta(ge=0, le=65535)]
Label = Annotated[str, Meta(max_length=512)]
"""Names and versions: the longest model name seen is under 200 characters."""

Name = Annotated[str, Meta(min_length=1, max_length=512)]
"""Of a model."""

MOST_SLOTS = 100_000

Identity = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"\A[\x21-\x7e]+\Z")]
"""Written into the head of a tunnel, so visible ASCII only."""

Key = Annotated[str, Meta(max_length=128, pattern=r"\A[\x21-\x7e]*\Z")]


class EngineKind(enum.StrEnum):
    """Which dialects an engine speaks."""

    OLLAMA = "ollama"  # Ollama, OpenAI and Anthropic dialects
    OPENAI = "openai"  # OpenAI's, some Anthropic's: llama.cpp server, vLLM, LM Studio, MLX-LM


class Reach(enum.StrEnum):
    """How the router gets to an engine."""

    LOOPBACK = "loopback"  # listens on the node's loopback only: through the agent's relay
    LAN = "lan"  # listens on the node's own address: directly
    REMOTE = "remote"  # another address that only the agent knows: through the relay


class Pressure(enum.StrEnum):
    """How short of memory the operating system says it is."""

    NORMAL = "normal"
    WARN = "warn"
    CRITICAL = "critical"


class NodeStatus(enum.StrEnum):
    """Where a node is in its life; see `fleet.STATUS_TRANSITIONS`."""

    RESTORED = "restored"  # known from before a restart of the router, not heard of since
    ONLINE = "online"  # reports in time
    LATE = "late"  # a heartbeat is overdue; still used
    OFFLINE = "offline"  # silent too long, or said goodbye; not used


class ModelDetails(msgspec.Struct, frozen=True, omit_defaults=True):
    """`details` of an entry of Ollama's `/api/tags`, field names as on the wire."""

    parent_model: str = ""
    format: str = ""
    family: str = ""
    families: tuple[str, ...] | None = None
    parameter_size: str = ""
    quantization_level: str = ""
    context_length: int = 0
    embedding_length: int = 0


class Model(msgspec.Struct, frozen=True, omit_defaults=True):
    """A model on a machine's disk.

    `weights` is the digest of the weights blob ("" when unknown): aliases share it, and with it
    a runner. `modified_at` is RFC 3339 text, kept as the engine wrote it. `remote_host` is the
    server that really runs it ("" for the engine itself), as `remote_model`: Ollama's cloud models
    are mere names.
    """

    name: Name
    digest: Label = ""
    weights: Annotated[str, Meta(max_length=4096)] = ""  # one digest a file of the runner
    size_bytes: Amount = 0
    modified_at: str = ""
    details: ModelDetails = ModelDetails()
    capabilities: tuple[str, ...] = ()
    num_ctx: Amount = 0  # what its Modelfile sets; 0: nothing
    remote_host: str = ""
    remote_model: str = ""


class LoadedModel(msgspec.Struct, frozen=True, omit_defaults=True):
    """An entry of `/api/ps`. `size_bytes` counts RAM and VRAM, `expires_at` is RFC 3339 text."""

    name: Label
    digest: Label = ""
    size_bytes: Amount = 0
    size_vram_bytes: Amount = 0
    context_length: Amount = 0
    expires_at: str = ""
    details: ModelDetails = ModelDetails()


class EngineReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """One engine of a machine as its agent sees it.

    `engine_id` is unique on the node (`ollama-11434`). `error` is "" while the engine answers.
    `slots` is how many requests of one model it runs at once, None when nothing tells;
    `context_length` that of requests which name none, 0 when nothing tells.
    `speaks_anthropic` is what an `openai` engine was found to do; an `ollama` always does.
    `keep_alive` is what its operator set (OLLAMA_KEEP_ALIVE), `default` where nobody set it for
    sure, "" when nothing tells.
    """

    engine_id: Identity
    kind: EngineKind
    port: Port
    reach: Reach = Reach.LOOPBACK
    version: Label = ""
    models: tuple[Model, ...] = ()
    loaded: tuple[LoadedModel, ...] = ()
    slots: Annotated[int, Meta(ge=1, le=MOST_SLOTS)] | None = None
    max_loaded: Amount | None = None
    error: str = ""
    speaks_anthropic: bool = False
    context_length: Amount = 0
    keep_alive: Label = ""


class Gpu(msgspec.Struct, frozen=True, omit_defaults=True):
    """A graphics processor; None and 0 where the platform does not tell."""

    name: str
    vendor: str = ""  # nvidia, amd, apple, intel
    memory_total_bytes: Amount = 0
    memory_free_bytes: Amount = 0
    utilisation_percent: float | None = None
    temperature_c: float | None = None
    unified: bool = False  # shares the machine's memory (Apple)


class Vitals(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a machine is doing now."""

    memory_total_bytes: Amount = 0
    memory_available_bytes: Amount = 0
    swap_used_bytes: Amount = 0
    cpu_count: Amount = 0
    cpu_percent: float = 0.0
    load_1m: float | None = None
    disk_total_bytes: Amount = 0
    disk_free_bytes: Amount = 0
    temperature_c: float | None = None
    throttled: bool = False
    pressure: Pressure = Pressure.NORMAL
    foreign_load_percent: float | None = None  # CPU used by others than engines and agent
    gpus: tuple[Gpu, ...] = ()
    doing: tuple[Label, ...] = ()  # what the agent's own services work on: `z-image: step 3 of 20`
    quiet_until: Label = ""  # `07:00` of its own clock while its quiet hours last


class Platform(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a machine is; does not change while its agent runs."""

    system: str = ""  # linux, darwin, windows
    release: str = ""
    machine: str = ""  # x86_64, arm64
    chip: str = ""
    memory_bandwidth_bytes_s: int = 0  # 0: unknown


class NodeReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """A heartbeat. None in a section means: as last said (a delta).

    `boot` (ms since 1970 at agent start) and `seq` order all reports of a node: one that is not
    newer than the last is stale and changes nothing.
    """

    node_id: Identity
    boot: Amount
    seq: Amount
    protocol: Amount = PROTOCOL_VERSION
    name: Label = ""
    agent_version: Label = ""
    relay_port: Port = 0
    relay_key: Key = ""
    leaving: bool = False
    platform: Platform | None = None
    vitals: Vitals | None = None
    engines: tuple[EngineReport, ...] | None = None
    sent_at_ms: Amount = 0  # the machine's clock, since 1970; 0: an agent that does not tell


class ReportReply(msgspec.Struct, frozen=True, omit_defaults=True):
    """The router's answer to a heartbeat. `resend` asks for a report with every section."""

    accepted: bool = True
    resend: bool = False
    reason: str = ""
    interval_s: float = 2.0
    router_version: str = ""
    is_key_changed: bool = (
        False  # the key whose hash came with the report is the node's from now on
    )


class Node(msgspec.Struct, frozen=True):
    """What the router believes of one machine. Times are router monotonic seconds."""

    node_id: str
    name: str
    address: str  # where its reports come from
    status: NodeStatus
    boot: int
    seq: int
    first_seen_s: float
    last_report_s: float
    missed_s: float = 0.0  # `Fleet.missed_s` at that report
    agent_version: str = ""
    relay_port: int = 0
    relay_key: str = ""
    draining: bool = False
    platform: Platform = Platform()
    vitals: Vitals = Vitals()
    engines: tuple[EngineReport, ...] = ()
    clock_skew_s: float = 0.0  # how far its clock is ahead of the router's
    has_left: bool = False  # its last report said goodbye

    @property
    def has_agent(self) -> bool:
        """False for an engine of the router's settings: of its machine nothing else is known."""
        return not self.node_id.startswith(STATIC_PREFIX)


class NoticedBy(enum.StrEnum):
    """What showed that a runner is stuck."""

    CANARY = "canary"  # a request for one token got no answer
    REQUESTS = "requests"  # clients' requests got none, or their streams stalled


class StuckRunner(msgspec.Struct, frozen=True):
    """A loaded model that does not answer although its engine's health checks do.

    `model` is one of the names of the runner, `since_s` router monotonic seconds.
    """

    node_id: str
    engine_id: str
    model: str
    runner: str
    since_s: float
    noticed_by: NoticedBy


class Detour(msgspec.Struct, frozen=True):
    """The way through the node's relay to an engine that should be reached directly."""

    port: int
    tunnel: str
    key: str


class Endpoint(msgspec.Struct, frozen=True):
    """Where to open a connection to an engine; `tunnel` names the engine at the node's relay.

    `detour` is for an engine that answers its own node on the LAN's address: a firewall between may
    let only the relay through.
    """

    host: str
    port: int
    tunnel: str = ""
    key: str = ""
    detour: Detour | None = None


class Replica(msgspec.Struct, frozen=True):
    """A model on one engine of one node. `runner` is what it shares with its aliases."""

    node_id: str
    engine_id: str
    kind: EngineKind
    model: Model
    runner: str  # weights digest, else canonical model name
    loaded: LoadedModel | None
    slots: int | None
    max_loaded: int | None
    endpoint: Endpoint
    speaks_anthropic: bool = False
    default_context: int = 0  # of the engine; 0: unknown
    keep_alive: str = ""  # of the engine, as in its report

    @property
    def is_cloud(self) -> bool:
        """Whether prompts would leave the network: Ollama passes them on to its cloud."""
        if self.kind is not EngineKind.OLLAMA:
            return False
        return bool(self.model.remote_host) or is_cloud_name(canonical_name(self.model.name))

    @property
    def slot_key(self) -> tuple[str, str, str]:
        """Requests with the same key compete for the same slots."""
        return (self.node_id, self.engine_id, self.runner)
