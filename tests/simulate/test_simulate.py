"""The simulator: deterministic, conserves requests, and shows the routing the product promises."""

import gzip
import json
from random import Random

import msgspec
import pytest
from typer.testing import CliRunner

from ollama_herd.cli.commands import app
from ollama_herd.core.request import Dialect, InferenceRequest, Kind
from ollama_herd.simulate import comparison, machines, traces, workloads
from ollama_herd.simulate.engine import KEEP_ALIVE_S, Engine, Job
from ollama_herd.simulate.policies import POLICIES, Herd
from ollama_herd.simulate.results import Figures, figures, geometric_mean, quantile, summary
from ollama_herd.simulate.world import Conditions, World

CALM = Conditions(wrong_ln=0.0, owners=False)


def case(fleet="f3", workload="chat", mix="two", load=0.6, *, conditions=CALM, most=250):
    source = workloads.BUILT_IN[workload]
    found = machines.fleet(fleet)
    return comparison.Case("case", found, source, workloads.MIXES[mix], load, conditions, most)


def asked(request_id, model="qwen3:8b", prefix=()):
    return InferenceRequest(
        request_id,
        model,
        model,
        Kind.CHAT,
        Dialect.OLLAMA,
        "/api/chat",
        0.0,
        stream=True,
        prefix=prefix,
    )


def drive(engine, until_s):
    """Events of the engine until then, as (time, request, what)."""
    seen = []
    while (at_s := engine.next_s()) <= until_s:
        for job, what in engine.advance(at_s):
            seen.append((at_s, job.request.request_id, what))
    list(engine.advance(until_s))
    return seen


def engine_of(kind, models):
    machine = next(m for m in machines.fleet("f8") if m.name.endswith(kind))
    truth = machines.Truth((machine,), 1, 0.0)
    return Engine(machine, models, truth), truth.rates(machine.name, models[0])


def test_a_lone_request_takes_load_prefill_and_decode() -> None:
    engine, rates = engine_of("studio", ["qwen3:8b"])
    engine.submit(Job(asked("a"), "qwen3:8b", 1000, 101, 0, 0.0))
    first, done = drive(engine, 200.0)
    prefill_s = 1000 * (1 + 500 / 32768) / rates.prefill_tokens_s
    assert first == (pytest.approx(rates.load_s + prefill_s), "a", "first")
    step_s = rates.step_s + rates.kv_s * 1050.5
    assert done == (pytest.approx(first[0] + 100 * step_s), "a", "done")


def test_a_prompt_seen_before_is_not_evaluated_again() -> None:
    engine, _ = engine_of("mini-pro", ["qwen3:8b"])
    chain = tuple(range(8))
    engine.submit(Job(asked("a", prefix=chain), "qwen3:8b", 2048, 2, 0, 0.0))
    drive(engine, 100.0)
    engine.submit(Job(asked("b", prefix=(*chain, 99)), "qwen3:8b", 2304, 2, 0, 100.0))
    engine.submit(Job(asked("c", prefix=(7, 8, 9)), "qwen3:8b", 2304, 2, 0, 100.0))
    times = {name: at_s for at_s, name, what in drive(engine, 300.0) if what == "first"}
    assert times["b"] - 100 < 0.3 * (times["c"] - 100)


def test_loads_push_out_the_idle_and_never_the_busy() -> None:
    engine, _ = engine_of("mini", ["qwen3:8b", "gemma3:12b"])
    engine.submit(Job(asked("a"), "qwen3:8b", 200, 400, 0, 0.0))
    engine.submit(Job(asked("b", "gemma3:12b"), "gemma3:12b", 200, 20, 0, 0.0))
    order = [(name, what) for _, name, what in drive(engine, 300.0)]
    assert order.index(("a", "done")) < order.index(("b", "first"))
    assert set(engine.runners) == {"gemma3:12b"}
    drive(engine, 300.0 + KEEP_ALIVE_S)
    assert not engine.runners


def test_another_context_length_reloads() -> None:
    engine, _ = engine_of("studio", ["qwen3:8b"])
    engine.submit(Job(asked("a"), "qwen3:8b", 200, 20, 0, 0.0))
    engine.submit(Job(asked("b"), "qwen3:8b", 200, 20, 8192, 0.0))
    drive(engine, 60.0)
    assert engine.loads == 2
    assert engine.runners["qwen3:8b"].context == 8192


@pytest.mark.parametrize("policy", POLICIES)
def test_every_request_is_answered_once(policy: str) -> None:
    outcome = comparison.run(case(load=0.4, most=120), policy, 1)
    found = figures(outcome)
    assert found.failed == found.starved == 0
    assert found.requests >= 120
    assert all(
        total >= first >= 0 for total, first in zip(outcome.total_s, outcome.ttft_s, strict=True)
    )
    # A little faster than "alone": what was cached is not evaluated.
    assert min(outcome.slowdown) > 0.3


@pytest.mark.parametrize("policy", ["herd", "point-sum", "power-of-two"])
def test_a_seed_gives_one_result(policy: str) -> None:
    once, again, other = (comparison.run(case(most=100), policy, seed) for seed in (4, 4, 5))
    assert once == again
    assert once != other


@pytest.mark.parametrize(
    ("fleet", "workload", "mix", "load"),
    [
        ("f3", "chat", "two", 0.5),
        ("f4", "completion", "few", 0.7),
        ("f6", "agents", "wide", 0.6),
        ("f8", "bursts", "few", 0.3),
    ],
)
def test_the_herd_beats_least_requests_everywhere(fleet, workload, mix, load) -> None:
    one = case(fleet, workload, mix, load, conditions=Conditions())
    herd, least = comparison.compare(one, ["herd", "least-requests"], [1])
    assert herd.mean.failed == herd.mean.starved == 0
    assert least.ratio["ttft_mean_s"] > 1
    assert least.ratio["slowdown_mean"] > 1


def test_failing_machines_cost_no_request() -> None:
    conditions = Conditions(failures_per_h=12)
    found = figures(comparison.run(case("f4", conditions=conditions, most=400), "herd", 2))
    assert found.failed == found.starved == 0


def test_old_reports_do_not_herd_requests_together() -> None:
    fresh, stale = (
        figures(comparison.run(case("f6", conditions=Conditions(heartbeat_s=s)), "herd", 1))
        for s in (2.0, 10.0)
    )
    assert stale.ttft_mean_s < 2 * fresh.ttft_mean_s


def test_wrong_expectations_are_learned_away() -> None:
    """Priors off by a factor of four; the figure of the study is 18 % of p95, here with margin."""
    right, wrong = (
        geometric_mean(
            [
                figures(
                    comparison.run(
                        case(
                            "f6", "chat", "few", 0.4, conditions=Conditions(wrong_ln=ln), most=500
                        ),
                        "herd",
                        seed,
                    )
                ).slowdown_mean
                for seed in (1, 2)
            ]
        )
        for ln in (0.0, 1.4)
    )
    assert wrong < 3 * right


def test_long_prompts_beside_short_answers_drive_no_rate_away() -> None:
    """Answers are slow while prompts are evaluated between their tokens: that says nothing of how
    fast either is alone.
    """
    policy = Herd(Random(1))
    one = case("f4", "completion", "few", 0.7, most=400)
    World(comparison.scenario(one, 2), policy).run()
    truth = machines.Truth(one.fleet, 2, 0.0)
    learned = 0
    for (node_id, _, _), replica in policy.scheduler.load.replicas.items():
        if replica.rates.lessons < 10:
            continue
        learned += 1
        true = truth.rates(node_id, replica.replica.model.name)
        speed = replica.node.pace.speed
        assert 0.6 < replica.rates.prefill.value * speed / true.prefill_tokens_s < 1.6
        assert 0.6 < replica.rates.step.value / speed / true.step_s < 1.6
    assert learned >= 4


# --- workloads and figures ---------------------------------------------------------------------


@pytest.mark.parametrize("name", workloads.BUILT_IN)
def test_workloads_have_the_rate_asked_for(name: str) -> None:
    rng = Random(1)
    made = workloads.scaled(
        workloads.BUILT_IN[name](rng), rng, workloads.MIXES["few"], rate_s=2.0, horizon_s=300.0
    )
    count = sum(len(c.turns) for c in made)
    assert 600 <= count < 700
    assert made[0].at_s == 0
    assert made[-1].at_s == pytest.approx(300 * count / 600)
    assert {c.model for c in made} <= set(workloads.MIXES["few"].shares)


def test_figures_of_known_numbers() -> None:
    assert quantile([float(i) for i in range(100)], 0.95) == 95
    assert quantile([], 0.5) == 0
    runs = [Figures(*[float(v)] * 10) for v in (2, 4)]
    found = summary("p", runs, [Figures(*[1.0] * 10)] * 2)
    assert found.mean.ttft_mean_s == 3
    assert found.half_width.ttft_mean_s == pytest.approx(12.71)
    assert found.ratio["ttft_mean_s"] == pytest.approx(8**0.5, rel=1e-4)


# --- traces ------------------------------------------------------------------------------------

ROWS = "t_ms,input_tokens,output_tokens\n0,300,40\n1500,900,10\n4000,20,400\n"
BLOCKS = "[0,1200,50,[[0,2]]]\n[900,1700,20,[[0,2],[9,1]]]\n"
SESSIONS = (
    '{"id":"s","block":64,"tool_tokens":512,"system_tokens":0,'
    '"req":[[0.0,0.0,2,1024,30,[[1,16]]],[9.0,5.0,3,1300,20,[[1,20]]]]}\n'
)
CLIENTS = json.dumps(
    [{"client": 7, "mean_rate": 1, "windows": [[0, 2.0, 1.0]], "in_q": [5, 9], "out_q": [3]}]
)


def test_each_format_is_read(tmp_path) -> None:
    texts = {"a.csv": ROWS, "b.jsonl": BLOCKS, "c.jsonl": SESSIONS, "d.json": CLIENTS}
    found = {}
    for name, text in texts.items():
        path = tmp_path / f"{name}.gz"
        path.write_bytes(gzip.compress(text.encode()))
        source = traces.source(path)(Random(0))
        found[name] = [next(source) for _ in range(4)]
    lengths = {(c.turns[0].prompt, c.turns[0].output) for c in found["a.csv"]}
    assert lengths == {(300, 40), (900, 10), (20, 400)}
    short, long = sorted((c.turns[0].chain for c in found["b.jsonl"][:2]), key=len)
    assert len(short) == 4
    assert long[:4] == short
    session = found["c.jsonl"][0]
    assert [(t.pause_s, t.prompt, len(t.chain)) for t in session.turns] == [
        (0.0, 1024, 4),
        (5.0, 1300, 5),
    ]
    assert all(c.turns[0].prompt in {5, 9} for c in found["d.json"])
    for conversations in found.values():
        times = [c.at_s for c in conversations]
        assert times == sorted(times)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.csv", b"x\n1,2\n"),
        ("a.csv", b"x\n"),
        ("a.jsonl", b"{]"),
        ("a.jsonl", b'{"id":1}\n'),
        ("a.json", b"[]"),
        ("a.json", b'[{"windows":[]}]'),
        ("a.csv.gz", b"not gzip"),
    ],
)
def test_what_is_no_trace_is_said_to_be_none(tmp_path, name: str, data: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(traces.TraceError, match="a\\."):
        traces.source(path)


# --- command -----------------------------------------------------------------------------------

QUICK = ["simulate", "--requests", "60", "--seeds", "2", "--fleet", "f3", "--mix", "two"]


def test_the_command_prints_a_table(tmp_path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(ROWS)
    call = [*QUICK, str(path), "--policies", "herd,random"]
    result = CliRunner().invoke(app, call, env={"COLUMNS": "120", "TERM": "dumb"})
    assert result.exit_code == 0, result.output
    assert "rows on f3, load 0.6" in result.output
    assert "herd" in result.output
    assert "1.00 " in result.output


def test_the_command_prints_json() -> None:
    result = CliRunner().invoke(app, [*QUICK, "--policies", "herd,random", "--json"])
    assert result.exit_code == 0, result.output
    found = msgspec.json.decode(result.stdout)
    assert [row["policy"] for row in found["chat"]] == ["herd", "random"]
    assert found["chat"][0]["ratio"]["ttft_mean_s"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (["--policies", "herd,magic"], "there is no policy 'magic'; there are: herd, random"),
        (["--fleet", "f9"], "there is no fleet 'f9'"),
        (["--policies", ","], "no policy is named"),
        (["absent.csv"], "the trace cannot be read"),
        (["--mix", "none"], "there is no mix 'none'"),
    ],
)
def test_the_command_says_what_is_wrong(option, said) -> None:
    result = CliRunner().invoke(app, [*QUICK, *option])
    assert result.exit_code == 2
    assert said in result.output
