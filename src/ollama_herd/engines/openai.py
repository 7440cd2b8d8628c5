"""Engines with the OpenAI dialect only: llama.cpp's server, vLLM, LM Studio, MLX-LM."""

import re
from pathlib import PurePosixPath, PureWindowsPath
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from ollama_herd.clock import monotonic_s
from ollama_herd.core.node import (
    MOST_SLOTS,
    Amount,
    EngineKind,
    Label,
    LoadedModel,
    Model,
    ModelDetails,
    Name,
)
from ollama_herd.engines.listings import LISTINGS, Listing
from ollama_herd.engines.probe import (
    PROBE_TIMEOUT_S,
    Answer,
    EngineFailure,
    EngineHttp,
    Findings,
    decode_each,
    expect,
)

PROPS_EVERY_S = 10.0

_REFUSALS = frozenset({400, 422, 500})
"""How servers answer a request that lacks its messages: llama.cpp's says 500 on this path. One
without the path says 404, 405 or 501; LM Studio answers any path with 200.
"""

_T = TypeVar("_T")


class _Meta(msgspec.Struct):
    """llama.cpp's facts of a model in memory; `n_ctx` is the context of one slot. What goes into a
    report is held to its bounds here, that one odd entry does not cost the node.
    """

    n_ctx: Amount = 0
    n_ctx_train: int = 0
    n_embd: int = 0
    n_params: int = 0
    size: Amount = 0
    ftype: str = ""


class _Status(msgspec.Struct):
    """llama.cpp in router mode: a process for each model, started on demand."""

    value: str = ""
    args: list[str] = []


class _Entry(msgspec.Struct):
    id: Name
    owned_by: str = ""
    meta: _Meta | None = None
    status: _Status | None = None
    max_model_len: Amount | None = None  # vLLM


class _OllamaLike(msgspec.Struct):
    """llama.cpp has a second list, `models`, after Ollama's."""

    name: str = ""
    capabilities: tuple[str, ...] = ()


class _Models(msgspec.Struct):
    data: list[msgspec.Raw]
    models: list[msgspec.Raw] | None = None


class _Template(msgspec.Struct):
    supports_tools: bool = False


class Props(msgspec.Struct):
    """llama.cpp's `/props`; `max_instances` only in router mode."""

    total_slots: Annotated[int, Meta(ge=0, le=MOST_SLOTS)] | None = None
    max_instances: Amount | None = None
    build_info: Label = ""
    chat_template_caps: _Template | None = None


class _Version(msgspec.Struct):
    version: Label = ""


def model_name(name: str) -> str:
    """As the engine names it; llama.cpp without an alias says the path of its file."""
    if not name.lower().endswith(".gguf"):
        return name
    path = PureWindowsPath(name) if "\\" in name else PurePosixPath(name)
    return path.stem


def parameter_size(count: int) -> str:
    """Parameters as Ollama writes them: `268.10M`, `7.2B`; "" when unknown."""
    if count >= 1_000_000_000:
        return f"{count / 1e9:.1f}B"
    if count >= 1_000_000:
        return f"{count / 1e6:.2f}M"
    return str(count) if count > 0 else ""


def quantization(ftype: str) -> str:
    """`Q4_K - Medium` (llama.cpp) -> `Q4_K_M` (as model files and Ollama say)."""
    match = re.match(r"(\w+) - (Small|Medium|Large)$", ftype)
    return f"{match[1]}_{match[2][0]}" if match else ftype


def parse_models(answer: Answer, props: Props | None, netloc: str) -> Findings:
    """`/v1/models` with what `/props` said. Raises EngineFailure."""
    listed = expect(answer, "/v1/models", _Models, netloc)
    capabilities = {
        entry.name: entry.capabilities for entry in decode_each(listed.models, _OllamaLike)
    }
    entries = decode_each(listed.data, _Entry)
    template = props.chat_template_caps if props else None
    tools = ("tools",) if template and template.supports_tools else ()
    return Findings(
        version=props.build_info if props else "",
        models=tuple(
            _model(entry, (*_known(capabilities.get(entry.id, ())), *tools)) for entry in entries
        ),
        loaded=tuple(_loaded(entry) for entry in entries if _is_loaded(entry)),
        slots=_slots(entries, props),
        max_loaded=props.max_instances if props else None,
    )


def _known(said: tuple[str, ...]) -> tuple[str, ...]:
    """llama.cpp's words in Ollama's."""
    words = {"multimodal": "vision"}
    return tuple(words.get(word, word) for word in said) or ("completion",)


def _model(entry: _Entry, capabilities: tuple[str, ...]) -> Model:
    meta = entry.meta or _Meta()
    return Model(
        name=model_name(entry.id),
        size_bytes=meta.size,
        details=_details(entry),
        capabilities=capabilities,
    )


def _details(entry: _Entry) -> ModelDetails:
    meta = entry.meta or _Meta()
    return ModelDetails(
        format="gguf" if entry.owned_by == "llamacpp" else "",
        parameter_size=parameter_size(meta.n_params),
        quantization_level=quantization(meta.ftype),
        context_length=meta.n_ctx_train or entry.max_model_len or 0,
        embedding_length=meta.n_embd,
    )


def _is_loaded(entry: _Entry) -> bool:
    """llama.cpp's router says it; a single llama.cpp or vLLM has what it lists. Others may list
    everything on the disk, so nothing is claimed of them.
    """
    if entry.status is not None:
        return entry.status.value == "loaded"
    return entry.meta is not None or entry.owned_by == "vllm"


def _loaded(entry: _Entry) -> LoadedModel:
    meta = entry.meta or _Meta()
    return LoadedModel(
        name=model_name(entry.id),
        size_bytes=meta.size,
        context_length=meta.n_ctx or entry.max_model_len or 0,
        details=_details(entry),
    )


def _slots(entries: list[_Entry], props: Props | None) -> int | None:
    """`/props` tells it; in router mode each model's process has its own, the least counts."""
    if props is not None and props.total_slots:
        return props.total_slots
    stated = [_argument(entry.status.args, "--parallel") for entry in entries if entry.status]
    counts = [int(value) for value in stated if value.isascii() and value.isdigit()]
    is_told = len(counts) == len(stated) and 0 < min(counts, default=0) <= MOST_SLOTS
    return min(counts) if is_told else None


def _argument(args: list[str], name: str) -> str:
    return args[args.index(name) + 1] if name in args[:-1] else ""


class OpenAiProbe:
    """Looks at one such engine; which of them it is shows in what it answers."""

    kind = EngineKind.OPENAI

    def __init__(self, http: EngineHttp) -> None:
        self._http = http
        self._props: Props | None = None
        self._version = ""
        self._due_s = 0.0
        self._listing: Listing | None = None
        self._speaks_anthropic = False

    async def look(self, *, thorough: bool) -> Findings:
        found = await self._look(thorough=thorough)
        return msgspec.structs.replace(found, speaks_anthropic=self._speaks_anthropic)

    async def _look(self, *, thorough: bool) -> Findings:
        netloc = self._http.netloc
        if (await self._http.get("/health")).status == 503:
            raise EngineFailure(f"{netloc} is loading its model")
        now_s = monotonic_s()
        if thorough or now_s >= self._due_s:
            if thorough or not self._due_s:  # it is the same server until it fails
                self._speaks_anthropic = await self._finds_messages()
            await self._identify()
            self._due_s = now_s + PROPS_EVERY_S
        if self._listing is not None:
            return self._listing.parse(await self._http.get(self._listing.path), netloc)
        answer = await self._http.get("/v1/models")
        refuse_if_locked(answer, netloc)
        found = parse_models(answer, self._props, netloc)
        return msgspec.structs.replace(found, version=found.version or self._version)

    async def close(self) -> None:
        return

    async def _finds_messages(self) -> bool:
        """Whether `/v1/messages` is there: a request without anything in it is then refused as
        such, and no model runs. A server that cannot cope with the question does not speak it.
        """
        try:
            answer = await self._http.post("/v1/messages", {}, PROBE_TIMEOUT_S)
        except EngineFailure:
            return False
        return answer.status in _REFUSALS

    async def _identify(self) -> None:
        """What else it tells beside its models; whatever it does not know is no failure."""
        self._props = _optional(await self._http.get("/props"), Props)
        if self._props is not None and not self._props.build_info:
            self._props = None  # LM Studio answers any path with 200
        if self._props is None:
            version = _optional(await self._http.get("/version"), _Version)  # vLLM
            self._version = version.version if version else ""
            self._listing = await self._find_listing()

    async def _find_listing(self) -> Listing | None:
        for listing in LISTINGS:
            answer = await self._http.get(listing.path)
            try:
                listing.parse(answer, self._http.netloc)
            except EngineFailure:
                continue
            return listing
        return None


def _optional(answer: Answer, kind: type[_T]) -> _T | None:
    """The answer as `kind`; None when it is something else."""
    try:
        return expect(answer, "", kind, "")
    except EngineFailure:
        return None


def refuse_if_locked(answer: Answer, netloc: str) -> None:
    """Raise EngineFailure when the engine wants an API key: there is nobody to give one."""
    if answer.status in (401, 403):
        raise EngineFailure(
            f"{netloc} wants an API key ({answer.status}), and herd-node has none to give; start "
            "it without one and bound to 127.0.0.1: the herd still reaches it there"
        )
