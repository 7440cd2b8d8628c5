"""Lists the router has read itself, and the agents' reports around them."""

import pytest

from ollama_herd.api.joining import JoinMode
from ollama_herd.core.node import Model, NodeReport, ReportReply
from ollama_herd.core.relisting import HOLD_S
from ollama_herd.router.admission import Admission, claim_of
from ollama_herd.router.registry import Registry
from tests.core.fleets import engine, report

TINY, COPY = Model(name="tiny:latest", digest="d1"), Model(name="copy:latest", digest="d1")


class Time:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    time = Time()
    monkeypatch.setattr("ollama_herd.router.registry.monotonic_s", time)
    return time


@pytest.fixture
def registry(time: Time) -> Registry:
    registry = Registry(
        2.0,
        Admission(
            JoinMode.AUTO,
            is_bound=lambda _node_id: True,
            bind=lambda _node_id, _key: True,
            max_nodes=10,
        ),
    )
    heard(registry, told([TINY], seq=1))
    return registry


def heard(registry: Registry, said: NodeReport) -> ReportReply:
    return registry.report(said, claim_of(said, "10.0.0.1", "key"))


def told(models, seq) -> NodeReport:
    return report("a", [engine(models)], seq=seq)


def names(registry: Registry) -> set[str]:
    return set(registry.fleet.replicas)


def test_it_is_shown_at_once_and_stays(registry: Registry) -> None:
    registry.relisted("a", "ollama-11434", [TINY, COPY])
    assert names(registry) == {"tiny:latest", "copy:latest"}
    reply = heard(registry, told([TINY], seq=2))
    assert not reply.resend
    assert names(registry) == {"tiny:latest", "copy:latest"}
    heard(registry, told([TINY, COPY], seq=3))
    heard(registry, told([TINY], seq=4))
    assert names(registry) == {"tiny:latest"}


def test_a_deleted_model_is_not_offered(registry: Registry) -> None:
    registry.relisted("a", "ollama-11434", [])
    heard(registry, told([TINY], seq=2))
    assert names(registry) == set()


def test_news_that_comes_late_brings_nothing_back(registry: Registry, time: Time) -> None:
    """Pulled and deleted at once: the agent has read its list between, and tells it later."""
    registry.relisted("a", "ollama-11434", [TINY, COPY])
    registry.relisted("a", "ollama-11434", [TINY])
    heard(registry, told([TINY], seq=2))
    heard(registry, told([TINY, COPY], seq=3))
    assert names(registry) == {"tiny:latest"}
    heard(registry, told([TINY], seq=4))
    time.now_s += HOLD_S + 1
    assert heard(registry, told([TINY, COPY], seq=5)).resend
    assert names(registry) == {"tiny:latest", "copy:latest"}  # somebody has made it anew


def test_what_is_pulled_again_is_there(registry: Registry) -> None:
    for models in ([TINY, COPY], [TINY], [TINY, COPY]):
        registry.relisted("a", "ollama-11434", models)
    heard(registry, told([TINY], seq=2))
    assert names(registry) == {"tiny:latest", "copy:latest"}
    heard(registry, told([TINY, COPY], seq=3))
    assert names(registry) == {"tiny:latest", "copy:latest"}


def test_after_a_while_the_agent_is_asked_for_everything(registry: Registry, time: Time) -> None:
    """It may have had nothing new to tell: what was changed was changed back behind us."""
    registry.relisted("a", "ollama-11434", [TINY, COPY])
    time.now_s += HOLD_S + 1
    reply = heard(registry, told([TINY], seq=2))
    assert reply.resend
    assert names(registry) == {"tiny:latest"}
    assert not heard(registry, told([TINY], seq=3)).resend


def test_unknown_nodes_and_engines_change_nothing(registry: Registry) -> None:
    before = registry.fleet
    registry.relisted("b", "ollama-11434", [COPY])
    registry.relisted("a", "ollama-1", [COPY])
    assert registry.fleet is before
