"""What a finished request teaches depends on how cleanly it could be measured."""

import pytest

from ollama_herd.core.predict import Predictor
from ollama_herd.core.request import Kind, OutcomeKind, Usage
from ollama_herd.core.scheduler import QueueSettings, Scheduler
from tests.core.fleets import engine, fleet_of, model, report, request

NAMES = ["m:7b", "n:7b"]


class Bench:
    def __init__(self, slots=2, loaded=("m:7b", "n:7b")):
        models = [model(name) for name in NAMES]
        self.fleet = fleet_of([report("a", [engine(models, loaded, slots=slots)])])
        self.scheduler = Scheduler(QueueSettings(), Predictor())

    def start(self, at_s, name="m:7b", **more):
        asked = request(name, at_s, prompt_tokens=more.pop("prompt_tokens", 1000), **more)
        (grant,) = self.scheduler.on_request(asked, self.fleet, at_s)
        assert grant.decision.winner is not None
        return asked

    def first(self, asked, at_s):
        self.scheduler.on_first_byte(asked.request_id, at_s)

    def end(self, asked, at_s, usage=None, outcome=OutcomeKind.COMPLETED):
        self.scheduler.on_finished(asked.request_id, outcome, usage, self.fleet, at_s)

    def rates(self, name="m:7b"):
        replica = self.fleet.replicas[name][0]
        return self.scheduler.load.predictor.rates(self.fleet.nodes["a"], replica)

    def errors(self, name="m:7b"):
        rates = self.rates(name)
        return rates.prefill.error_ln, rates.step.error_ln, rates.load.error_ln


def slow(bench, factor=3.0, **more):
    """Usage of an answer `factor` times slower than believed."""
    rates = bench.rates()
    return Usage(
        prompt_tokens=1000,
        output_tokens=200,
        prefill_ms=1e3 * factor * 1000 * rates.inv_prefill_s,
        decode_ms=1e3 * factor * 200 * rates.step_s,
        **more,
    )


def test_an_answer_alone_teaches_prefill_and_decode():
    bench = Bench()
    asked = bench.start(0.0)
    bench.first(asked, 1.0)
    bench.end(asked, 9.0, slow(bench))
    prefill, step, load = bench.errors()
    assert prefill < -0.2
    assert step > 0.2
    assert load == 0


@pytest.mark.parametrize("stream", [True, False])
def test_without_a_stream_the_engines_own_times_teach(stream):
    bench = Bench()
    asked = bench.start(0.0, stream=stream)
    bench.first(asked, 9.0)
    bench.end(asked, 9.0 if not stream else 12.0, slow(bench))
    prefill, step, _ = bench.errors()
    assert prefill < -0.2
    assert step > 0.2


def test_engines_that_tell_no_times_are_measured_by_the_clock():
    bench = Bench()
    asked = bench.start(0.0)
    rates = bench.rates()
    first_s = 3 * 1000 * rates.inv_prefill_s
    bench.first(asked, first_s)
    decode_s = 3 * 200 * rates.step_s
    bench.end(asked, first_s + decode_s, Usage(prompt_tokens=1000, output_tokens=200))
    prefill, step, _ = bench.errors()
    assert prefill < -0.2
    assert step > 0.2


def test_a_prefill_beside_another_model_is_not_taken_for_its_own_speed():
    bench = Bench()
    other = bench.start(0.0, "n:7b")
    bench.first(other, 0.5)
    asked = bench.start(0.6)
    bench.first(asked, 4.0)
    usage = slow(bench)
    bench.end(asked, 9.0, Usage(prompt_tokens=1000, output_tokens=0, prefill_ms=usage.prefill_ms))
    assert bench.errors() == (0, 0, 0)


def test_decoding_side_by_side_is_put_down_to_the_company():
    """Two sequences of one model, each slowed by the other exactly as expected."""
    bench = Bench()
    alpha = bench.scheduler.load.predictor.pace(bench.fleet.nodes["a"]).alpha
    step_s = bench.rates().step_s * (1 + alpha)
    askeds = [bench.start(0.0, prompt_tokens=10) for _ in range(2)]
    for asked in askeds:
        bench.first(asked, 0.05)
    for asked in askeds:
        decode_s = 200 * step_s
        usage = Usage(prompt_tokens=10, output_tokens=200, prefill_ms=50, decode_ms=1e3 * decode_s)
        bench.end(asked, 0.05 + decode_s, usage)
    assert bench.errors()[1] == pytest.approx(0, abs=0.02)


def test_the_cached_part_of_a_prompt_does_not_count_as_speed():
    """Ollama counts cached tokens but times only the others."""
    bench = Bench(slots=1)
    chain = tuple(range(1, 21))
    first = bench.start(0.0, prompt_tokens=5120, prefix=chain)
    bench.first(first, 5.0)
    bench.end(first, 6.0)
    rates, before = bench.rates(), bench.errors()[0]
    again = bench.start(7.0, prompt_tokens=5376, prefix=(*chain, 99))
    bench.first(again, 8.0)
    new_s = 256 * (1 + 5248 / 32768) * rates.inv_prefill_s
    bench.end(again, 9.0, Usage(prompt_tokens=5376, output_tokens=0, prefill_ms=1e3 * new_s))
    assert bench.errors()[0] == pytest.approx(before, abs=0.02)


def test_loads_teach_how_long_loads_take():
    bench = Bench(loaded=())
    asked = bench.start(0.0)
    bench.first(asked, 30.0)
    bench.end(asked, 31.0, Usage(prompt_tokens=1000, output_tokens=3, load_ms=29_000.0))
    assert bench.errors()[2] > 0.3


def test_a_load_that_was_none_teaches_nothing():
    bench = Bench()
    asked = bench.start(0.0)
    bench.first(asked, 1.0)
    bench.end(asked, 2.0, Usage(prompt_tokens=10, output_tokens=0, load_ms=60.0))
    assert bench.errors()[2] == 0


def test_a_load_behind_others_work_teaches_nothing():
    """The engine's load time then counts what it waited for."""
    bench = Bench()
    other = bench.start(0.0, "n:7b")
    asked = bench.start(0.1)
    bench.end(asked, 60.0, Usage(prompt_tokens=10, output_tokens=0, load_ms=50_000.0))
    bench.end(other, 61.0)
    assert bench.errors()[2] == 0


def test_embeddings_teach_prefill():
    bench = Bench()
    asked = bench.start(0.0, kind=Kind.EMBED, stream=False)
    bench.end(asked, 3 * 1000 * bench.rates().inv_prefill_s, Usage(prompt_tokens=1000))
    prefill, step, _ = bench.errors()
    assert prefill < -0.2
    assert step == 0


def test_a_burst_of_answers_is_sampled():
    bench = Bench(slots=1)
    for number in range(2000):
        asked = bench.start(0.001 * number)
        bench.end(asked, 0.001 * number + 0.0005, slow(bench, 1.0))
    assert bench.rates().lessons < 32 + 2 * 20 + 2


def test_a_cut_prompt_does_not_teach_its_length():
    """Ollama cuts what exceeds the context without a word."""
    bench = Bench()
    lengths = bench.scheduler.load.predictor.lengths
    asked = bench.start(0.0, prompt_tokens=20_000)
    bench.end(asked, 9.0, Usage(prompt_tokens=4096, output_tokens=5))
    assert lengths.prompt_tokens(asked) == 20_000
    asked = bench.start(10.0, prompt_tokens=2000)
    bench.end(asked, 19.0, Usage(prompt_tokens=3000, output_tokens=5))
    assert lengths.prompt_tokens(asked) > 2000
