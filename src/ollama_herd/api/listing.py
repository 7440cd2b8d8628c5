"""Reads an engine's `/api/tags` into models, for the router after a change it made."""

import msgspec

from ollama_herd.core.node import Model, ModelDetails


class _Tag(msgspec.Struct):
    name: str = ""
    model: str = ""
    modified_at: str = ""
    size: int = 0
    digest: str = ""
    details: ModelDetails | None = None
    capabilities: tuple[str, ...] | None = None


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
        )
        for tag in listed or ()
        if tag.name or tag.model
    )
