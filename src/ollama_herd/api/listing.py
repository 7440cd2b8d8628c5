"""An engine's `/api/tags` and `/api/ps`: what an entry says, and whole lists for the router when it
looks itself.
"""

from typing import Generic, TypeVar

import msgspec

from ollama_herd.core.node import LoadedModel, Model, ModelDetails


class ListedModel(msgspec.Struct):
    """An entry of `/api/tags` as it came."""

    name: str = ""
    model: str = ""
    modified_at: str = ""
    size: int = 0
    digest: str = ""
    details: ModelDetails | None = None
    capabilities: tuple[str, ...] | None = None
    remote_host: str = ""
    remote_model: str = ""


class RunningModel(msgspec.Struct):
    """An entry of `/api/ps` as it came."""

    name: str = ""
    model: str = ""
    size: int = 0
    size_vram: int = 0
    digest: str = ""
    context_length: int = 0
    expires_at: str = ""
    details: ModelDetails | None = None


_Entry = TypeVar("_Entry", ListedModel, RunningModel)


class _Listed(msgspec.Struct, Generic[_Entry]):
    models: tuple[_Entry, ...] | None = None


_Tags = _Listed[ListedModel]
_Ps = _Listed[RunningModel]


def model_of(tag: ListedModel) -> Model:
    """The model of an entry that has a name."""
    return Model(
        name=tag.name or tag.model,
        digest=tag.digest,
        size_bytes=tag.size,
        modified_at=tag.modified_at,
        details=tag.details or ModelDetails(),
        capabilities=tag.capabilities or (),
        remote_host=tag.remote_host,
        remote_model=tag.remote_model,
    )


def loaded_of(entry: RunningModel) -> LoadedModel:
    """The loaded model of an entry that has a name."""
    return LoadedModel(
        name=entry.name or entry.model,
        digest=entry.digest,
        size_bytes=entry.size,
        size_vram_bytes=entry.size_vram,
        context_length=entry.context_length,
        expires_at=entry.expires_at,
        details=entry.details or ModelDetails(),
    )


def read_tags(body: bytes) -> tuple[Model, ...] | None:
    """The models of a list, None when it is none."""
    listed = _entries(body, _Tags)
    return None if listed is None else tuple(map(model_of, listed))


def read_ps(body: bytes) -> tuple[LoadedModel, ...] | None:
    """The loaded models of a list, None when it is none."""
    listed = _entries(body, _Ps)
    return None if listed is None else tuple(map(loaded_of, listed))


def _entries(body: bytes, form: type[_Listed[_Entry]]) -> list[_Entry] | None:
    """The entries of a list that have a name, None when it is no list."""
    try:
        listed = msgspec.json.decode(body, type=form).models
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return [entry for entry in listed or () if entry.name or entry.model]
