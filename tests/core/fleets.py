"""Builders of fleets and requests for the core's tests."""

from collections.abc import Iterable

from ollama_herd.core.fleet import Fleet, NodeReported, apply
from ollama_herd.core.names import canonical_name
from ollama_herd.core.node import (
    EngineKind,
    EngineReport,
    Gpu,
    LoadedModel,
    Model,
    ModelDetails,
    NodeReport,
    Platform,
    Vitals,
)
from ollama_herd.core.request import Dialect, InferenceRequest, Kind

GB = 10**9


def model(name="llama3.2:3b", size_gb=2.0, digest="", **more):
    return Model(
        name=name,
        digest=digest or f"digest-{name}",
        weights=more.pop("weights", f"weights-{name}"),
        size_bytes=int(size_gb * GB),
        details=ModelDetails(parameter_size="3.2B", quantization_level="Q4_K_M"),
        **more,
    )


def engine(models, loaded=(), slots=1, kind=EngineKind.OLLAMA, **more):
    by_name = {m.name: m for m in models}
    return EngineReport(
        engine_id=more.pop("engine_id", "ollama-11434"),
        kind=kind,
        port=11434,
        models=tuple(models),
        loaded=tuple(
            LoadedModel(name=n, size_bytes=by_name[n].size_bytes, context_length=4096)
            for n in loaded
        ),
        slots=slots,
        **more,
    )


def report(node_id, engines, seq=1, free_gb=64.0, total_gb=64.0, **more):
    return NodeReport(
        node_id=node_id,
        boot=more.pop("boot", 1),
        seq=seq,
        name=node_id,
        platform=more.pop(
            "platform",
            Platform(
                system="darwin",
                machine="arm64",
                chip="Apple M2 Max",
                memory_bandwidth_bytes_s=400 * GB,
            ),
        ),
        vitals=more.pop(
            "vitals",
            Vitals(
                memory_total_bytes=int(total_gb * GB),
                memory_available_bytes=int(free_gb * GB),
                gpus=(Gpu(name="Apple M2 Max", vendor="apple", unified=True),),
            ),
        ),
        engines=tuple(engines),
        **more,
    )


def fleet_of(reports: Iterable[NodeReport], now_s=0.0, fleet=None) -> Fleet:
    fleet = fleet or Fleet()
    for one in reports:
        fleet = apply(fleet, NodeReported(one, "10.0.0.1"), now_s)
    return fleet


_serial = iter(range(10**9))


def request(name="llama3.2:3b", now_s=0.0, **more) -> InferenceRequest:
    key = canonical_name(name)
    return InferenceRequest(
        request_id=more.pop("request_id", f"r{next(_serial)}"),
        model=name,
        model_key=more.pop("model_key", key),
        kind=more.pop("kind", Kind.CHAT),
        dialect=more.pop("dialect", Dialect.OLLAMA),
        path="/api/chat",
        arrived_s=now_s,
        stream=more.pop("stream", True),
        prompt_tokens=more.pop("prompt_tokens", 200),
        **more,
    )
