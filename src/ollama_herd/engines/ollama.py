"""Ollama as seen from its own machine: models on disk, models in memory, shared weights."""

import asyncio
import re
from typing import Any

import msgspec

from ollama_herd.api.listing import ListedModel, RunningModel, loaded_of, model_of
from ollama_herd.clock import monotonic_s
from ollama_herd.core.node import Amount, EngineKind, Label, LoadedModel, Model
from ollama_herd.engines.probe import (
    Answer,
    EngineFailure,
    EngineHttp,
    Findings,
    decode_each,
    expect,
)
from ollama_herd.tasks import cancel_and_wait, spawn

TAGS_EVERY_S = 10.0
VERSION_EVERY_S = 60.0

SHOW_TIMEOUT_S = 15.0
"""Ollama reads the head of the model file for it: 0.4 s on a busy machine, longer from a cold
disk. Nobody waits for it."""

SHOW_AGAIN_S = 60.0
"""When /api/show failed for a model (its file is missing), how long not to ask again."""

_NUM_CTX = re.compile(r"^PARAMETER num_ctx (\d{1,8})$", re.MULTILINE)

_BLOB = re.compile(r"^(?:FROM|ADAPTER) .*?sha256[-:]([0-9a-f]{64})", re.MULTILINE)


class Shown(msgspec.Struct, frozen=True):
    """What only `/api/show` tells of a model."""

    weights: str = ""
    capabilities: tuple[str, ...] = ()
    context_length: int = 0
    embedding_length: int = 0
    num_ctx: int = 0


class _Version(msgspec.Struct):
    version: Label


class _Entries(msgspec.Struct):
    models: list[msgspec.Raw] | None = None


class _Tag(ListedModel):
    """Held to the bounds of a report."""

    name: Label = ""
    model: Label = ""
    size: Amount = 0
    digest: Label = ""


class _Running(RunningModel):
    """Held to the bounds of a report."""

    name: Label = ""
    model: Label = ""
    size: Amount = 0
    size_vram: Amount = 0
    digest: Label = ""
    context_length: Amount = 0


class _Show(msgspec.Struct):
    modelfile: str = ""
    capabilities: tuple[str, ...] | None = None
    model_info: dict[str, Any] | None = None


class Tag(msgspec.Struct, frozen=True):
    """A model of `/api/tags`."""

    model: Model
    has_capabilities: bool


def parse_tags(answer: Answer, netloc: str) -> tuple[Tag, ...]:
    """`/api/tags`; entries without a name are left out. Raises EngineFailure."""
    entries = expect(answer, "/api/tags", _Entries, netloc).models
    return tuple(
        Tag(
            model=model_of(entry),
            has_capabilities=entry.capabilities is not None,
        )
        for entry in decode_each(entries, _Tag)
        if entry.name or entry.model
    )


def parse_ps(answer: Answer, netloc: str) -> tuple[LoadedModel, ...]:
    """`/api/ps`. Raises EngineFailure."""
    entries = expect(answer, "/api/ps", _Entries, netloc).models
    return tuple(
        loaded_of(entry) for entry in decode_each(entries, _Running) if entry.name or entry.model
    )


def parse_show(answer: Answer, netloc: str) -> Shown:
    """`/api/show`. `weights` names every file that makes the runner. Raises EngineFailure."""
    shown = expect(answer, "/api/show", _Show, netloc)
    info = shown.model_info or {}
    architecture = info.get("general.architecture")
    return Shown(
        weights=weights_of(shown.modelfile),
        capabilities=shown.capabilities or (),
        context_length=_length(info.get(f"{architecture}.context_length")),
        embedding_length=_length(info.get(f"{architecture}.embedding_length")),
        num_ctx=num_ctx_of(shown.modelfile),
    )


def weights_of(modelfile: str) -> str:
    """`sha256:…` of the file behind FROM, joined by `+` with projectors and adapters.

    Models share a runner when they share the file; with another adapter on it they do not. ""
    when the model is no single file (a folder of safetensors, a model elsewhere).
    """
    return "+".join(f"sha256:{digest}" for digest in _BLOB.findall(modelfile))


def num_ctx_of(modelfile: str) -> int:
    """The context length that a Modelfile sets, the last of several; 0 when it sets none."""
    found = _NUM_CTX.findall(modelfile)
    return int(found[-1]) if found else 0


def _length(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def describe(tag: Tag, shown: Shown | None) -> Model:
    """The model with what is known of it; `/api/tags` goes first, as clients see that."""
    model = tag.model
    if shown is None:
        return model
    details = model.details
    return msgspec.structs.replace(
        model,
        weights=shown.weights,
        num_ctx=shown.num_ctx,
        capabilities=model.capabilities if tag.has_capabilities else shown.capabilities,
        details=msgspec.structs.replace(
            details,
            context_length=details.context_length or shown.context_length,
            embedding_length=details.embedding_length or shown.embedding_length,
        ),
    )


class OllamaProbe:
    """Looks at one Ollama. `/api/show` is asked once a manifest digest, in the background."""

    kind = EngineKind.OLLAMA

    def __init__(self, http: EngineHttp) -> None:
        self._http = http
        self._version = ""
        self._version_due_s = 0.0
        self._tags: tuple[Tag, ...] = ()
        self._tags_due_s = 0.0
        self._shown: dict[str, Shown] = {}  # by manifest digest, of models that are there
        self._show_due_s: dict[str, float] = {}  # by manifest digest, after a failure
        self._showing: asyncio.Task[None] | None = None

    async def look(self, *, thorough: bool) -> Findings:
        now_s = monotonic_s()
        loaded = parse_ps(await self._http.get("/api/ps"), self._http.netloc)
        if thorough or now_s >= self._version_due_s:
            answer = await self._http.get("/api/version")
            self._version = expect(answer, "/api/version", _Version, self._http.netloc).version
            self._version_due_s = now_s + VERSION_EVERY_S
        known = {tag.model.name for tag in self._tags}
        if thorough or now_s >= self._tags_due_s or any(item.name not in known for item in loaded):
            self._tags = parse_tags(await self._http.get("/api/tags"), self._http.netloc)
            self._tags_due_s = now_s + TAGS_EVERY_S
            self._forget_what_is_gone()
        if (self._showing is None or self._showing.done()) and self._next_to_show() is not None:
            self._showing = spawn(self._show_all(), name=f"read models of {self._http.netloc}")
        return Findings(
            version=self._version,
            models=tuple(describe(tag, self._shown.get(tag.model.digest)) for tag in self._tags),
            loaded=loaded,
        )

    async def close(self) -> None:
        await cancel_and_wait(self._showing)

    def _forget_what_is_gone(self) -> None:
        there = {tag.model.digest for tag in self._tags}
        self._shown = {key: value for key, value in self._shown.items() if key in there}
        self._show_due_s = {key: due for key, due in self._show_due_s.items() if key in there}

    def _next_to_show(self) -> Model | None:
        now_s = monotonic_s()
        for tag in self._tags:
            digest = tag.model.digest
            due = now_s >= self._show_due_s.get(digest, 0.0)
            if digest and digest not in self._shown and not tag.model.remote_host and due:
                return tag.model
        return None

    async def _show_all(self) -> None:
        """One after the other: it is not urgent, and the engine has work to do."""
        while (model := self._next_to_show()) is not None:
            try:
                answer = await self._http.post(
                    "/api/show", {"model": model.name}, timeout_s=SHOW_TIMEOUT_S
                )
                self._shown[model.digest] = parse_show(answer, self._http.netloc)
            except EngineFailure:
                # Its weights stay unknown, which is safe; a dead engine shows in the next look.
                self._show_due_s[model.digest] = monotonic_s() + SHOW_AGAIN_S
