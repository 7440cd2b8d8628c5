"""Reads an engine's `/api/tags` and `/api/ps`, for the router when it looks itself."""

import msgspec

from ollama_herd.core.node import LoadedModel, Model, ModelDetails


class _Tag(msgspec.Struct):
    name: str = ""
    model: str = ""
    modified_at: str = ""
    size: int = 0
    digest: str = ""
    details: ModelDetails | None = None
    capabilities: tuple[str, ...] | None = None
    remote_host: str = ""
    remote_model: str = ""


class _Running(msgspec.Struct):
    name: str = ""
    model: str = ""
    size: int = 0
    size_vram: int = 0
    digest: str = ""
    context_length: int = 0
    expires_at: str = ""
    details: ModelDetails | None = None


class _Ps(msgspec.Struct):
    models: tuple[_Running, ...] | None = None


class _Tags(msgspec.Struct):
    models: tuple[_Tag, ...] | None = None


def read_tags(body: bytes) -> tuple[Model, ...] | None:
    """The models of a list, None when it is none."""
    try:
        listed = msgspec.json.decode(body, type=_Tags).models
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return tuple(
        Model(
            name=tag.name or tag.model,
            digest=tag.digest,
            size_bytes=tag.size,
            modified_at=tag.modified_at,
            details=tag.details or ModelDetails(),
            capabilities=tag.capabilities or (),
            remote_host=tag.remote_host,
            remote_model=tag.remote_model,
        )
        for tag in listed or ()
        if tag.name or tag.model
    )


def read_ps(body: bytes) -> tuple[LoadedModel, ...] | None:
    """The loaded models of a list, None when it is none."""
    try:
        listed = msgspec.json.decode(body, type=_Ps).models
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return tuple(
        LoadedModel(
            name=entry.name or entry.model,
            digest=entry.digest,
            size_bytes=entry.size,
            size_vram_bytes=entry.size_vram,
            context_length=entry.context_length,
            expires_at=entry.expires_at,
            details=entry.details or ModelDetails(),
        )
        for entry in listed or ()
        if entry.name or entry.model
    )
