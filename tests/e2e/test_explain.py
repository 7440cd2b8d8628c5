"""`herd explain` and `/fleet/explain` against a running router."""

import json

import pytest
from typer.testing import CliRunner

from ollama_herd.cli.commands import app
from tests.e2e.conftest import Pair


def explain(pair: Pair, *more: str) -> tuple[int, str]:
    url = f"http://127.0.0.1:{pair.port}"
    env = {"COLUMNS": "120", "TERM": "dumb"}
    result = CliRunner().invoke(app, ["explain", *more, "--router", url], env=env)
    return result.exit_code, result.output


def test_explains_without_asking_an_engine(pair: Pair) -> None:
    before = [len(engine.state.requests) for engine in pair.engines]
    code, text = explain(pair, "only-a", "--prompt-tokens", "900", "--num-ctx", "2048")
    assert code == 0, text
    assert "prompt of 900 tokens" in text
    assert "it goes to a at once" in text
    assert "latency history" in text
    code, text = explain(pair, "nothing")
    assert "no node of the fleet has nothing:latest" in text
    asked = {r[1] for e, n in zip(pair.engines, before, strict=True) for r in e.state.requests[n:]}
    assert not asked & {"/api/chat", "/api/generate"}


def test_prints_what_the_router_says(pair: Pair) -> None:
    code, text = explain(pair, "tiny", "--json")
    assert code == 0
    found = json.loads(text)
    assert {choice["node"] for choice in found["choices"]} == {"a", "b"}
    totals = [choice["cost"]["total_ms"] for choice in found["choices"]]
    assert totals == sorted(totals)


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("", "name a model"),
        ("?model=tiny&prompt_tokens=-1", "prompt_tokens must be a whole number"),
        ("?model=tiny&num_ctx=99999999", "num_ctx must be a whole number"),
    ],
)
def test_wrong_questions_are_refused(pair: Pair, query: str, reason: str) -> None:
    answer = pair.call("GET", f"/fleet/explain{query}")
    assert answer.status == 400
    assert reason in json.loads(answer.body)["error"]


def test_says_where_it_found_no_router() -> None:
    for url, said in [("http://127.0.0.1:1", "no router answers at"), ("ftp://x", "is no URL")]:
        result = CliRunner().invoke(app, ["explain", "m", "--router", url])
        assert result.exit_code > 0
        assert said in result.output
