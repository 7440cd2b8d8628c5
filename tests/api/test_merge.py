"""The fleet's lists: byte by byte those of a real server when the fleet is one server."""

import json
import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_herd.api import merge
from ollama_herd.api.errors import ApiError
from ollama_herd.core.digests import served_digest
from ollama_herd.core.fleet import Fleet, NodeDrained, NodeReported, TimePassed, apply, restored
from ollama_herd.core.names import canonical_name
from ollama_herd.core.node import (
    EngineKind,
    EngineReport,
    LoadedModel,
    Model,
    ModelDetails,
    NodeReport,
    Platform,
    Vitals,
)
from ollama_herd.core.times import parse_time

from .recorded import Exchange, ollama

A, B = "a" * 64, "b" * 64


def _details(entry: dict[str, Any]) -> ModelDetails:
    return msgspec.convert(entry["details"], ModelDetails)


def _models(exchange: Exchange) -> tuple[Model, ...]:
    """What an agent reports of the engine whose `/api/tags` was recorded."""
    return tuple(
        Model(
            name=entry["name"],
            digest=entry["digest"],
            size_bytes=entry["size"],
            modified_at=entry["modified_at"],
            details=_details(entry),
            capabilities=tuple(entry["capabilities"]),
        )
        for entry in json.loads(exchange.answer)["models"]
    )


def _loaded(exchange: Exchange) -> tuple[LoadedModel, ...]:
    return tuple(
        LoadedModel(
            name=entry["name"],
            digest=entry["digest"],
            size_bytes=entry["size"],
            size_vram_bytes=entry["size_vram"],
            context_length=entry["context_length"],
            expires_at=entry["expires_at"],
            details=_details(entry),
        )
        for entry in json.loads(exchange.answer)["models"]
    )


def engine(
    *models: Model,
    loaded: tuple[LoadedModel, ...] = (),
    kind: EngineKind = EngineKind.OLLAMA,
    version: str = "",
    error: str = "",
) -> EngineReport:
    return EngineReport(
        engine_id=f"{kind}-1",
        kind=kind,
        port=1,
        models=models,
        loaded=loaded,
        version=version,
        error=error,
    )


def fleet_of(*engines: EngineReport) -> Fleet:
    """A node for each engine, named n0, n1, …"""
    fleet = Fleet()
    for index, engine_report in enumerate(engines):
        node = NodeReport(
            node_id=f"n{index}",
            boot=1,
            seq=1,
            name=f"box-{index}",
            platform=Platform(),
            vitals=Vitals(),
            engines=(engine_report,),
        )
        fleet = apply(fleet, NodeReported(node, f"10.0.0.{index}"), 0.0)
    return fleet


def entries(body: bytes) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(body)["models"]
    return found


def names(fleet: Fleet) -> list[str]:
    return [entry["name"] for entry in entries(merge.tags(fleet))]


# --- one server --------------------------------------------------------------------------------


@pytest.mark.parametrize("number", ["005", "103", "404"])
def test_tags_of_one_server_are_its_own(number: str) -> None:
    exchange = ollama(number)
    assert merge.tags(fleet_of(engine(*_models(exchange)))) == exchange.answer


@pytest.mark.parametrize("number", ["011", "021", "037", "079", "087", "344"])
def test_ps_of_one_server_is_its_own(number: str) -> None:
    exchange = ollama(number)
    assert merge.ps(fleet_of(engine(loaded=_loaded(exchange)))) == exchange.answer


def test_openai_models_as_recorded() -> None:
    recorded = ollama("140")
    # The lists were recorded at the same time, but for the model that was deleted in between.
    listed = {entry["id"] for entry in json.loads(recorded.answer)["data"]}
    models = [model for model in _models(ollama("103")) if model.name in listed]
    fleet = fleet_of(engine(*models))
    assert merge.models(fleet) == recorded.answer
    one = ollama("141")
    assert merge.model(fleet, one.path.rpartition("/")[2]) == one.answer


def test_version_of_one_server_is_its_own() -> None:
    exchange = ollama("003")
    version = json.loads(exchange.answer)["version"]
    assert merge.version(fleet_of(engine(version=version))) == exchange.answer


def test_an_unknown_openai_model() -> None:
    error = merge.model(Fleet(), "nope")
    assert isinstance(error, ApiError)
    assert error.message == "model 'nope:latest' not found"


def test_an_empty_fleet_has_lists() -> None:
    assert merge.tags(Fleet()) == b'{"models":[]}'
    assert merge.ps(Fleet()) == b'{"models":[]}'
    assert merge.models(Fleet()) == b'{"object":"list","data":[]}\n'
    assert json.loads(merge.version(Fleet())) == {"version": merge.API_VERSION}


# --- many servers ------------------------------------------------------------------------------


def _model(name: str, digest: str = A, modified: int = 0, **more: Any) -> Model:
    return Model(name, digest=digest, modified_at=f"2026-01-01T00:00:{modified:02d}Z", **more)


def test_copies_of_a_model_are_listed_each_and_nodes_only_once() -> None:
    fleet = fleet_of(
        engine(_model("a:latest", A, 3), _model("copy:latest", A, 2)),
        engine(_model("a:latest", A, 5)),
        engine(_model("A:latest", A, 1)),
    )
    assert names(fleet) == ["a:latest", "copy:latest"]
    assert entries(merge.tags(fleet))[0]["modified_at"] == "2026-01-01T00:00:05Z"


def test_one_digest_is_served_under_a_name() -> None:
    newest_alone = fleet_of(
        engine(_model("m:latest", A, 1, size_bytes=1)),
        engine(_model("m:latest", A, 2, size_bytes=1)),
        engine(_model("m:latest", B, 9, size_bytes=2)),
    )
    (entry,) = entries(merge.tags(newest_alone))
    assert (entry["digest"], entry["size"]) == (A, 1)
    assert entry["modified_at"] == "2026-01-01T00:00:02Z"
    as_many = fleet_of(engine(_model("m:latest", A, 1)), engine(_model("m:latest", B, 9)))
    assert served_digest(as_many.replicas["m:latest"]) == B


_replicas = st.lists(
    st.tuples(st.sampled_from([A, B, "c" * 64, ""]), st.integers(0, 3)), min_size=1, max_size=6
)


@given(_replicas, st.randoms(use_true_random=False))
def test_the_served_digest_is_one_of_them_in_any_order(found: Any, random: Any) -> None:
    fleet = fleet_of(*(engine(_model("m:latest", digest, age)) for digest, age in found))
    replicas = list(fleet.replicas["m:latest"])
    served = served_digest(replicas)
    told = [digest for digest, _ in found if digest]
    counts = {digest: told.count(digest) for digest in told}
    assert counts.get(served, 0) == max(counts.values(), default=0)
    random.shuffle(replicas)
    assert served_digest(replicas) == served
    (entry,) = entries(merge.tags(fleet))
    assert served in ("", entry["digest"])


def test_no_replica_no_digest() -> None:
    assert served_digest([]) == ""


def test_only_usable_nodes_are_listed() -> None:
    fleet = fleet_of(
        engine(_model("a:latest"), loaded=(LoadedModel("a:latest", A, 1),)),
        engine(_model("b:latest"), loaded=(LoadedModel("b:latest", A, 1),)),
        engine(_model("c:latest"), loaded=(LoadedModel("c:latest", A, 1),), error="refused"),
    )
    fleet = apply(fleet, NodeDrained("n1", draining=True), 0.0)
    assert names(fleet) == ["a:latest"]
    assert [entry["name"] for entry in entries(merge.ps(fleet))] == ["a:latest"]
    offline = apply(fleet, TimePassed(2.0), 1000.0)
    assert names(offline) == []
    after_restart = restored(fleet.nodes.values(), 0.0)
    assert names(after_restart) == ["a:latest"]


def test_ps_takes_both_sizes_from_the_replica_that_stays_longest() -> None:
    def loaded(minute: int, size: int, vram: int, context: int) -> EngineReport:
        expires_at = f"2026-01-01T00:{minute:02d}:00.5+00:00"
        return engine(loaded=(LoadedModel("m:latest", A, size, vram, context, expires_at),))

    fleet = fleet_of(loaded(5, 10, 10, 8192), loaded(9, 7, 3, 32768), loaded(1, 99, 99, 4096))
    (entry,) = entries(merge.ps(fleet))
    assert (entry["size"], entry["size_vram"]) == (7, 3)
    assert entry["context_length"] == 4096
    assert entry["expires_at"] == "2026-01-01T00:09:00.5+00:00"


def test_ps_is_sorted_by_expiry_and_keeps_what_was_deleted() -> None:
    def loaded(name: str, expires_at: str) -> LoadedModel:
        return LoadedModel(name, A, 1, expires_at=expires_at)

    fleet = fleet_of(
        engine(loaded=(loaded("gone:latest", "2026-01-01T00:05:00Z"),)),
        engine(
            _model("b:latest"),
            loaded=(
                loaded("b:latest", "2026-01-01T03:00:00+02:00"),
                loaded("c:latest", "2319-03-04T10:04:18.2564539Z"),
            ),
        ),
    )
    listed = [entry["name"] for entry in entries(merge.ps(fleet))]
    assert listed == ["c:latest", "b:latest", "gone:latest"]


@pytest.mark.parametrize(
    ("versions", "lowest"),
    [
        (["0.33.0", "0.9.1", "0.10.0"], "0.9.1"),
        (["0.33.0", "0.33.0-rc2"], "0.33.0-rc2"),
        (["0.0.0", "0.12.3"], "0.12.3"),
        (["", "built from source", "0.12.3"], "0.12.3"),
        (["0.0.0"], merge.API_VERSION),
    ],
)
def test_the_lowest_version_counts(versions: list[str], lowest: str) -> None:
    fleet = fleet_of(*(engine(version=version) for version in versions))
    assert json.loads(merge.version(fleet)) == {"version": lowest}


def test_the_version_outlives_the_nodes() -> None:
    fleet = fleet_of(engine(version="0.12.3"), engine(version="b5000", kind=EngineKind.OPENAI))
    assert json.loads(merge.version(apply(fleet, TimePassed(2.0), 1000.0))) == {"version": "0.12.3"}


# --- engines of the other kind -----------------------------------------------------------------


def test_models_of_openai_engines_are_complete() -> None:
    fleet = fleet_of(
        engine(
            Model("Qwen/Qwen2.5-7B-Instruct"),
            Model("<odd> & /models/x.gguf"),
            kind=EngineKind.OPENAI,
            loaded=(LoadedModel("Qwen/Qwen2.5-7B-Instruct"),),
        )
    )
    for entry in [*entries(merge.tags(fleet)), *entries(merge.ps(fleet))]:
        assert entry["name"] == entry["model"]
        assert entry["name"].endswith(":latest")
        assert re.fullmatch(r"[0-9a-f]{64}", entry["digest"])
        assert entry["details"]["families"] == []
    for entry in entries(merge.tags(fleet)):
        assert parse_time(entry["modified_at"]) == (0, 0)
        assert entry["capabilities"] == ["completion"]
    (running,) = entries(merge.ps(fleet))
    assert parse_time(running["expires_at"])[0] > 10_000_000_000
    ids = {entry["id"]: entry["owned_by"] for entry in json.loads(merge.models(fleet))["data"]}
    assert ids["Qwen/Qwen2.5-7B-Instruct"] == "Qwen"  # as its engine wants to be asked
    assert b"<" not in merge.tags(fleet)
    found = merge.model(fleet, "qwen/Qwen2.5-7B-Instruct:latest")
    assert isinstance(found, bytes)


@given(st.text(max_size=10), st.text("0123456789abcdef", max_size=70))
def test_every_digest_is_a_full_one(name: str, digest: str) -> None:
    full = merge.full_digest(digest, name)
    assert re.fullmatch(r"[0-9a-f]{64}", full)
    assert full == merge.full_digest(digest, name)
    assert merge.full_digest("sha256:" + A, name) == A


# --- times -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("1970-01-01T00:00:00Z", (0, 0)),
        ("2026-11-22T10:16:06.160413842Z", (1795342566, 160413842)),
        ("2026-11-22T12:16:06.16+02:00", (1795342566, 160000000)),
        ("1969-12-31T23:59:59.5Z", (-1, 500000000)),
        ("0001-01-01T00:00:00Z", (-62135596800, 0)),
    ],
)
def test_times(text: str, time: tuple[int, int]) -> None:
    assert parse_time(text) == time


@given(st.text(max_size=30) | st.from_regex(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", fullmatch=True))
def test_what_is_no_time_is_oldest(text: str) -> None:
    assert parse_time(text) <= parse_time("9999-12-31T23:59:59Z")


# --- any fleet ---------------------------------------------------------------------------------

_any_models = st.lists(
    st.builds(
        Model,
        name=st.sampled_from(["a", "a:latest", "A:latest", "b:1", "x/b:1", "h.co/x/b"]),
        digest=st.sampled_from([A, B, "", "sha256:" + A, "short"]),
        modified_at=st.sampled_from(["", "2026-01-01T00:00:00Z", "2026-01-01T00:00:00.5+01:00"]),
        size_bytes=st.integers(0, 2**40),
    ),
    max_size=4,
    unique_by=lambda model: canonical_name(model.name),
)
_any_engines = st.lists(
    st.builds(
        lambda kind, models: engine(*models, kind=kind), st.sampled_from(EngineKind), _any_models
    ),
    max_size=4,
)


@given(_any_engines)
def test_lists_of_any_fleet_are_sound(engines: list[EngineReport]) -> None:
    fleet = fleet_of(*engines)
    tags = entries(merge.tags(fleet))
    keys = [canonical_name(entry["name"]) for entry in tags]
    assert sorted(keys) == sorted(fleet.replicas)
    seconds = [parse_time(entry["modified_at"])[0] for entry in tags]
    assert seconds == sorted(seconds, reverse=True)
    for entry in tags:
        assert re.fullmatch(r"[0-9a-f]{64}", entry["digest"])
        assert ":" in entry["name"].rpartition("/")[2]
    listed = json.loads(merge.models(fleet))["data"]
    assert [canonical_name(entry["id"]) for entry in listed] == keys
    for entry in listed:
        assert isinstance(merge.model(fleet, entry["id"]), bytes)
