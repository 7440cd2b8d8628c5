"""States of a fleet as health looks at them."""

from collections.abc import Iterable

import msgspec

from ollama_herd.core.fleet import Fleet, NodeReported, TimePassed, apply
from ollama_herd.core.health.values import (
    LoadSeen,
    RouterFacts,
    Snapshot,
)
from ollama_herd.core.node import Gpu, LoadedModel, Vitals
from ollama_herd.core.queue import QueueView, WaitingRequest
from ollama_herd.core.request import Kind, OutcomeKind, Priority, Refusal, RefusalKind
from ollama_herd.core.tally import Tally
from ollama_herd.core.trace import Trace
from tests.core.fleets import GB, engine, fleet_of, model, report, request
from tests.store.samples import attempt, candidate, trace

GIB = 2**30
NOW = 1000.0
NAME = "llama3.2:3b"
QUIET = QueueView(0, 0, (), ())


def node(node_id="a", **more):
    """A healthy machine with one loaded model."""
    engines = more.pop("engines", None) or [engine([model()], [NAME], version="0.12.3")]
    return report(node_id, engines, **more)


def vitals(**changes) -> Vitals:
    plain = Vitals(
        memory_total_bytes=64 * GIB,
        memory_available_bytes=20 * GIB,
        disk_total_bytes=1000 * GB,
        disk_free_bytes=400 * GB,
        gpus=(Gpu(name="Apple M2 Max", vendor="apple", unified=True),),
    )
    return msgspec.structs.replace(plain, **changes)


def snapshot(*reports, fleet: Fleet | None = None, **more) -> Snapshot:
    fleet = fleet or fleet_of(reports or [node()], NOW)
    return Snapshot(
        now_s=NOW,
        fleet=fleet,
        queue=more.pop("queue", QUIET),
        recent=tallied(more.pop("ended", ())),
        router=more.pop("router", RouterFacts(version="", queue_limit=100)),
        **more,
    )


def tallied(traces: Iterable[Trace]):
    tally = Tally()
    for one in traces:
        tally.add([one], NOW)
    return tally.recent(NOW)


def ended(count: int, node_id="a", **changes) -> list[Trace]:
    """So many requests of NAME that ended in the same way, on node a."""
    tries = changes.pop("attempts", (attempt(node_id=node_id, model=NAME),))
    decision = changes.pop("decision", None)
    made = trace(model=NAME, node_id=node_id, attempts=tries, decision=decision, **changes)
    return [made] * count


def failed(count: int, outcome=OutcomeKind.ENGINE_ERROR, first_byte_ms=-1.0, **changes):
    one = attempt(outcome, node_id="a", model=NAME, first_byte_ms=first_byte_ms)
    status = changes.pop("status", 502)
    return ended(count, status=status, error=outcome.value, usage=None, attempts=(one,), **changes)


def gone(*there: str) -> Snapshot:
    """Node `a` has been silent for a minute; the others have not."""
    early = fleet_of([node("a")], NOW - 60.0)
    fleet = fleet_of([node(name) for name in there], NOW, early)
    return snapshot(fleet=apply(fleet, TimePassed(2.0), NOW))


def in_memory(size_gb=3.0, context=8192, weights_gb=2.0, **more):
    one = LoadedModel(name=NAME, size_bytes=int(size_gb * GB), context_length=context)
    loaded = engine([model(size_gb=weights_gb)], [NAME], **more)
    return msgspec.structs.replace(loaded, loaded=(one,))


def with_context(length: int, **changes):
    """A decision for a replica that is loaded with this context."""
    place = candidate(NAME, "a")
    loaded = LoadedModel(name=NAME, context_length=length)
    replica = msgspec.structs.replace(place.replica, loaded=loaded, **changes)
    place = msgspec.structs.replace(place, replica=replica)
    return msgspec.structs.replace(trace().decision, candidates=(place,))


def asked(tokens: int):
    return request(NAME, prompt_tokens=tokens)


def waiting(count: int, waited_s: float = 1.0) -> QueueView:
    requests = tuple(
        WaitingRequest(str(n), NAME, "", Priority.INTERACTIVE, n + 1, waited_s, 1.0)
        for n in range(count)
    )
    return QueueView(4, count, (), requests)


def loaded_in_turn(*names: str) -> tuple[LoadSeen, ...]:
    return tuple(LoadSeen("a", "ollama-11434", name, NOW - 60.0) for name in names)


def turned_away(kind: RefusalKind) -> list[Trace]:
    refusal = Refusal(kind, "words")
    return ended(1, node_id="", status=503, error="x", usage=None, attempts=(), refusal=refusal)


def predicted(ratio: float) -> list[Trace]:
    """Requests whose first token took `ratio` times what was predicted."""
    tried = attempt(node_id="a", model=NAME, started_ms=10.0, first_byte_ms=10 + 50 * ratio)
    decision = msgspec.structs.replace(with_context(8192), first_token_ms=50.0)
    return ended(60, attempts=(tried,), decision=decision)


def skewed(seconds: float) -> Snapshot:
    told = node(sent_at_ms=int((5000.0 + seconds) * 1e3))
    return snapshot(fleet=apply(Fleet(), NodeReported(told, "10.0.0.1", 5000.0), NOW))


def image_engine(error: str):
    made = model("flux:latest", capabilities=("image",))
    return engine([made], engine_id="images", error=error)


def failed_pictures(count: int) -> list[Trace]:
    one = attempt(OutcomeKind.ENGINE_ERROR, node_id="a", model="flux:latest", first_byte_ms=-1.0)
    asked_for = request("flux:latest", kind=Kind.IMAGE)
    ends = trace(request=asked_for, node_id="a", status=500, error="engine_error", attempts=(one,))
    return [ends] * count
