"""The fleet's models as one server would list them: `/api/tags`, `/api/ps`, `/v1/models`.

One entry a name, each entry from one replica, never a sum or a union. Where nodes hold different
models under one name, one digest is served (`served_digest`), so that all users of a name get the
same model. Key order and omitted keys are those of the recorded exchanges of Ollama 0.33.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence

import msgspec

from ollama_herd.api.errors import ApiError, unknown_listed_model
from ollama_herd.api.gojson import escape_html
from ollama_herd.core.abilities import purpose
from ollama_herd.core.digests import served_digest
from ollama_herd.core.fleet import USABLE, Fleet
from ollama_herd.core.names import DEFAULT_NAMESPACE, DEFAULT_TAG, canonical_name
from ollama_herd.core.node import (
    EngineKind,
    EngineReport,
    LoadedModel,
    Model,
    ModelDetails,
    Replica,
)
from ollama_herd.core.request import Kind
from ollama_herd.core.times import NO_TIME, parse_time

API_VERSION = "0.33.0"
"""The Ollama whose API the router offers; told when no Ollama is known. Clients gate features."""

UNKNOWN_TIME = "1970-01-01T00:00:00Z"
"""`modified_at` of a model whose engine does not tell."""

NEVER = "2318-01-01T00:00:00Z"
"""`expires_at` of a model that its engine never unloads; Ollama says now + 292 years for that."""


MayList = Callable[[str], bool]
"""Whether who asks may see a model of this name; None instead of it: every one."""


class _Details(msgspec.Struct, frozen=True):
    parent_model: str
    format: str
    family: str
    families: tuple[str, ...] | None
    parameter_size: str
    quantization_level: str


class _FullDetails(_Details, frozen=True, omit_defaults=True):
    context_length: int = 0
    embedding_length: int = 0


class _Tag(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    name: str
    model: str
    remote_model: str = ""
    remote_host: str = ""
    modified_at: str
    size: int
    digest: str
    details: _FullDetails
    capabilities: tuple[str, ...] = ()


class _Running(msgspec.Struct, frozen=True):
    name: str
    model: str
    size: int
    digest: str
    details: _Details
    expires_at: str
    size_vram: int
    context_length: int


class _OpenAiModel(msgspec.Struct, frozen=True, omit_defaults=True):
    id: str
    object: str
    created: int
    owned_by: str
    kind: str = "text"


class _ImageModel(msgspec.Struct, frozen=True):
    name: str
    type: str
    nodes: tuple[str, ...]


class _Listed(msgspec.Struct, frozen=True):
    """What is served under one name. `replica` is where its entry comes from."""

    replica: Replica
    modified_at: str
    modified_s: tuple[int, int]


def tags(fleet: Fleet, may_list: MayList | None = None) -> bytes:
    """The body of `/api/tags`, newest model first."""
    return _encoded({"models": [_tag(listed) for listed in _listed(fleet, may_list)]})


def models(fleet: Fleet, may_list: MayList | None = None) -> bytes:
    """The body of `/v1/models`; ids as the engines list them."""
    data = [
        _openai_model(listed.replica.model.name, listed.modified_s, listed.replica.model)
        for listed in _listed(fleet, may_list)
    ]
    return _encoded({"object": "list", "data": data}) + b"\n"


def model(fleet: Fleet, name: str, may_list: MayList | None = None) -> bytes | ApiError:
    """The body of `/v1/models/{model}`, which echoes the name as asked."""
    replicas = fleet.replicas.get(canonical_name(name))
    if not replicas or (may_list is not None and not may_list(name)):
        return unknown_listed_model(name)
    entry = _entry(replicas)
    return _encoded(_openai_model(name, entry.modified_s, entry.replica.model)) + b"\n"


def image_models(fleet: Fleet, may_list: MayList | None = None) -> bytes:
    """The body of `/api/image-models`: who makes pictures, and on which nodes."""
    found = [
        _ImageModel(
            name=replicas[0].model.name,
            type=Kind.IMAGE.value,
            nodes=tuple(sorted({fleet.nodes[r.node_id].name for r in replicas})),
        )
        for name, replicas in sorted(fleet.replicas.items())
        if may_list is None or may_list(name)
        if any(purpose(replica.model) == Kind.IMAGE for replica in replicas)
    ]
    return _encoded({"models": found})


def ps(fleet: Fleet, may_list: MayList | None = None) -> bytes:
    """The body of `/api/ps`, the one that stays longest first."""
    found: dict[str, list[tuple[LoadedModel, EngineKind, str]]] = {}
    for node_id, engine in _usable_engines(fleet):
        for loaded in engine.loaded:
            found.setdefault(canonical_name(loaded.name), []).append((loaded, engine.kind, node_id))
    names = [name for name in sorted(found) if may_list is None or may_list(name)]
    entries = [_running(found[name]) for name in names]
    entries.sort(key=lambda entry: parse_time(entry.expires_at)[0], reverse=True)
    return _encoded({"models": entries})


def version(fleet: Fleet) -> bytes:
    """The body of `/api/version`: the lowest Ollama of the usable fleet, so that no client uses
    what a node lacks; else the lowest one known; else `API_VERSION`.
    """
    usable = [engine for _, engine in _usable_engines(fleet)]
    known = [engine for node in fleet.nodes.values() for engine in node.engines]
    lowest = _lowest_version(usable) or _lowest_version(known) or API_VERSION
    return _encoded({"version": lowest})


def _usable_engines(fleet: Fleet) -> list[tuple[str, EngineReport]]:
    return [
        (node.node_id, engine)
        for node in fleet.nodes.values()
        if node.status in USABLE and not node.draining
        for engine in node.engines
        if not engine.error
    ]


def _listed(fleet: Fleet, may_list: MayList | None) -> list[_Listed]:
    names = sorted(fleet.replicas)
    if may_list is not None:
        names = [name for name in names if may_list(name)]
    entries = [_entry(fleet.replicas[name]) for name in names]
    # Ollama compares whole seconds and keeps the order of equal ones.
    entries.sort(key=lambda listed: listed.modified_s[0], reverse=True)
    return entries


def _entry(replicas: Sequence[Replica]) -> _Listed:
    """The newest replica of the served digest stands for all of them."""
    digest = served_digest(replicas)
    served = [replica for replica in replicas if replica.model.digest == digest]
    newest = max(
        served,
        key=lambda replica: (parse_time(replica.model.modified_at), replica.node_id),
    )
    modified_at = newest.model.modified_at
    if parse_time(modified_at) == NO_TIME:
        modified_at = UNKNOWN_TIME
    return _Listed(newest, modified_at, parse_time(modified_at))


def _tag(listed: _Listed) -> _Tag:
    replica = listed.replica
    known = replica.model
    name = _tagged(known.name)
    capabilities = known.capabilities
    if not capabilities and replica.kind is EngineKind.OPENAI:
        capabilities = ("completion",)  # clients hide a model that says it can do nothing
    details = known.details
    return _Tag(
        name=name,
        model=name,
        remote_model=known.remote_model,
        remote_host=known.remote_host,
        modified_at=listed.modified_at,
        size=known.size_bytes,
        digest=full_digest(known.digest, known.name),
        details=_FullDetails(
            parent_model=details.parent_model,
            format=details.format,
            family=details.family,
            families=_families(details, replica.kind),
            parameter_size=details.parameter_size,
            quantization_level=details.quantization_level,
            context_length=details.context_length,
            embedding_length=details.embedding_length,
        ),
        capabilities=capabilities,
    )


def _families(details: ModelDetails, kind: EngineKind) -> tuple[str, ...] | None:
    """Ollama writes null when a model has none; other engines never say."""
    if details.families is None and kind is EngineKind.OPENAI:
        return (details.family,) if details.family else ()
    return details.families


def _running(replicas: list[tuple[LoadedModel, EngineKind, str]]) -> _Running:
    """Sizes of the one replica that stays longest; the CLI divides them by one another."""
    loaded, kind, _ = max(
        replicas, key=lambda found: (_expiry(found[0]), found[0].size_bytes, found[2])
    )
    contexts = [found.context_length for found, _, _ in replicas if found.context_length]
    name = _tagged(loaded.name)
    details = loaded.details
    return _Running(
        name=name,
        model=name,
        size=loaded.size_bytes,
        digest=full_digest(loaded.digest, loaded.name),
        details=_Details(
            parent_model=details.parent_model,
            format=details.format,
            family=details.family,
            families=_families(details, kind),
            parameter_size=details.parameter_size,
            quantization_level=details.quantization_level,
        ),
        expires_at=loaded.expires_at or NEVER,
        size_vram=min(loaded.size_vram_bytes, loaded.size_bytes),
        context_length=min(contexts, default=0),
    )


def _expiry(loaded: LoadedModel) -> tuple[int, int]:
    return parse_time(loaded.expires_at or NEVER)


def _openai_model(model: str, modified_s: tuple[int, int], known: Model) -> _OpenAiModel:
    """`kind` is there only for models that a chat client must not offer for text."""
    parts = model.rsplit("/", 2)
    owner = parts[-2] if len(parts) > 1 and parts[-2] else DEFAULT_NAMESPACE
    return _OpenAiModel(
        id=model, object="model", created=modified_s[0], owned_by=owner, kind=_kind(known)
    )


def _kind(model: Model) -> str:
    found = purpose(model)
    return found if found in (Kind.IMAGE, Kind.SPEECH) else "text"


def _tagged(name: str) -> str:
    """Ollama always lists a tag; other engines know none."""
    return name if ":" in name.rsplit("/", 1)[-1] else f"{name}:{DEFAULT_TAG}"


_DIGEST = re.compile(r"[0-9a-f]{64}")


def full_digest(digest: str, model: str) -> str:
    """64 hexadecimal digits, always: the CLI cuts pieces out of a digest without looking.

    A model whose engine tells no digest gets one made of its name.
    """
    bare = digest.lower().removeprefix("sha256:")
    if _DIGEST.fullmatch(bare):
        return bare
    seed = digest or canonical_name(model)
    return hashlib.sha256(seed.encode("utf-8", "replace")).hexdigest()


_VERSION = re.compile(r"(\d{1,9})\.(\d{1,9})\.(\d{1,9})(?:-([0-9A-Za-z.-]+))?(?:\+.*)?")
_DEVELOPMENT = (0, 0, 0)
"""Ollama built without a version calls itself 0.0.0; that says nothing about what it can do."""


def _lowest_version(engines: Iterable[EngineReport]) -> str:
    versions = {}
    for engine in engines:
        order = _version_order(engine.version) if engine.kind is EngineKind.OLLAMA else None
        if order is not None and order[:3] != _DEVELOPMENT:
            versions[engine.version] = order
    return min(versions, key=lambda text: (versions[text], text)) if versions else ""


def _version_order(text: str) -> tuple[int, int, int, bool, str] | None:
    """A pre-release is lower than its release. None for what is no version."""
    found = _VERSION.fullmatch(text)
    if found is None:
        return None
    return int(found[1]), int(found[2]), int(found[3]), found[4] is None, found[4] or ""


def _encoded(value: object) -> bytes:
    return escape_html(msgspec.json.encode(value))
