"""Answer and prompt lengths are learned by model, client and first block."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_herd.core.lengths import DEFAULT_OUTPUT_TOKENS, MODEL_WINDOW, Lengths, ModelLengths
from ollama_herd.core.request import Kind
from tests.core.fleets import request

TOKENS = st.integers(1, 100_000)


def test_nothing_known_gives_the_default():
    assert Lengths().output_tokens(request()) == DEFAULT_OUTPUT_TOKENS


@pytest.mark.parametrize(
    "more", [{"kind": Kind.EMBED}, {"is_load_only": True}, {"max_tokens": 0}], ids=str
)
def test_what_generates_nothing_has_no_length(more):
    assert Lengths().output_tokens(request(**more)) == 0


def test_a_clients_own_bound_caps_and_minus_one_is_none():
    lengths = Lengths()
    assert lengths.output_tokens(request(max_tokens=16)) == 16
    assert lengths.output_tokens(request(max_tokens=10_000)) == DEFAULT_OUTPUT_TOKENS
    assert lengths.output_tokens(request(max_tokens=-1)) == DEFAULT_OUTPUT_TOKENS


def test_clients_and_prompts_are_told_apart():
    lengths = Lengths()
    for _ in range(30):
        lengths.learn_output(request(client="short"), 10)
        lengths.learn_output(request(client="long"), 1000)
        lengths.learn_output(request(client="mixed", prefix=(1, 2)), 30)
        lengths.learn_output(request(client="mixed", prefix=(9, 2)), 3000)
    expected = {c: lengths.output_tokens(request(client=c)) for c in ("short", "long", "new")}
    assert expected["short"] < 0.3 * expected["new"]
    assert expected["long"] > 850
    known = [lengths.output_tokens(request(client="mixed", prefix=(b, 5))) for b in (1, 9)]
    assert known[0] < 300
    assert known[1] > 2000


@given(st.lists(TOKENS, max_size=3 * MODEL_WINDOW))
def test_the_window_is_a_recount(answers):
    model = ModelLengths()
    for tokens in answers:
        model.add(tokens)
    kept = answers[-MODEL_WINDOW:]
    assert list(model.recent) == kept
    assert model.ordered == sorted(kept)
    assert model.total == pytest.approx(sum(kept))


@given(st.lists(TOKENS, min_size=1, max_size=60), TOKENS)
def test_residual_life_is_the_mean_of_what_longer_answers_had_left(answers, streamed):
    lengths = Lengths()
    for tokens in answers:
        lengths.learn_output(request(), tokens)
    left = [tokens - streamed for tokens in answers if tokens > streamed]
    expected = (sum(left) + 2 * (0.5 * streamed + 40)) / (len(left) + 2)
    rest = lengths.residual_tokens(request().model_key, streamed, None)
    assert rest == pytest.approx(expected)


@given(st.lists(TOKENS, max_size=20), TOKENS, st.integers(0, 5000))
def test_the_rest_of_an_answer_respects_its_bound(answers, streamed, limit):
    lengths = Lengths()
    for tokens in answers:
        lengths.learn_output(request(), tokens)
    rest = lengths.residual_tokens(request().model_key, streamed, limit)
    assert 0 <= rest <= max(0, limit - streamed)


def test_prompt_estimates_are_corrected_by_what_engines_count():
    lengths = Lengths()
    asked = request(prompt_tokens=1000)
    for _ in range(60):
        lengths.learn_prompt(asked, 1500)
    assert lengths.prompt_tokens(asked) == pytest.approx(1500, rel=0.02)
    for _ in range(100):
        lengths.learn_prompt(asked, 10**9)
    assert lengths.prompt_tokens(asked) <= 4000


def test_memory_is_bounded():
    lengths = Lengths()
    for i in range(10_000):
        lengths.learn_output(request(client=f"c{i}"), 5)
    assert len(lengths._means) <= 8192
    fresh = lengths.output_tokens(request(client="c9999"))
    assert fresh < lengths.output_tokens(request(client="c0"))


def test_state_round_trip():
    lengths = Lengths()
    for i in range(300):
        lengths.learn_output(request(), i)
    lengths.learn_prompt(request(prompt_tokens=100), 150)
    again = Lengths()
    again.restore(lengths.state())
    assert again.state() == lengths.state()
    assert again.output_tokens(request(client="new")) == lengths.output_tokens(
        request(client="new")
    )
