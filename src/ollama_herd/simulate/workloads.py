"""What is asked: conversations, from traces or made up, scaled to a fleet's capacity."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from math import exp
from random import Random
from types import MappingProxyType

import msgspec

from ollama_herd.core.prefix import BLOCK_TOKENS

MAX_PROMPT = 15_000
"""Longer prompts are cut to the window every simulated engine loads with."""

MAX_OUTPUT = 4096


class Turn(msgspec.Struct, frozen=True):
    """One request of a conversation, `pause_s` after the answer before it.

    `chain` are ids of the prompt's blocks of 256 tokens, each standing for all before it too.
    """

    pause_s: float
    prompt: int
    output: int
    chain: tuple[int, ...] = ()


class Conversation(msgspec.Struct, frozen=True):
    """Requests of one client to one model. `at_s` is the first one's arrival."""

    at_s: float
    client: str
    turns: tuple[Turn, ...]
    model: str = ""


class Mix(msgspec.Struct, frozen=True):
    """Share of conversations by model."""

    shares: Mapping[str, float]


MIXES: Mapping[str, Mix] = MappingProxyType(
    {
        "two": Mix({"qwen3:8b": 0.7, "llama3.2:3b": 0.3}),
        "few": Mix({"qwen3:8b": 0.45, "llama3.2:3b": 0.2, "gemma3:12b": 0.2, "qwen3:14b": 0.15}),
        "wide": Mix(
            {
                "qwen3:8b": 0.3,
                "llama3.2:3b": 0.2,
                "gemma3:12b": 0.14,
                "qwen3:14b": 0.1,
                "qwen3:30b-a3b": 0.16,
                "qwen3:32b": 0.06,
                "llama3.3:70b": 0.04,
            }
        ),
        "big": Mix({"qwen3:30b-a3b": 0.5, "qwen3:32b": 0.3, "qwen3:14b": 0.2}),
    }
)
"""Models and how often they are asked for; those no machine of a fleet can run are left out."""

Source = Callable[[Random], Iterator[Conversation]]
"""Endless conversations in order of arrival, on a time axis of its own."""


def _lognormal(rng: Random, median: float, sigma: float) -> float:
    return median * exp(sigma * rng.gauss(0.0, 1.0))


def _lengths(rng: Random, prompt: float, output: float) -> tuple[int, int]:
    asked = int(min(max(_lognormal(rng, prompt, 1.0), 8), MAX_PROMPT))
    answered = int(min(max(_lognormal(rng, output, 0.9), 1), MAX_OUTPUT))
    return asked, answered


def _grown(rng: Random, base: int, turns: int, more: float, answer: float) -> tuple[Turn, ...]:
    """Turns of a conversation whose prompt holds all that was said before."""
    chain: list[int] = []
    prompt, made = base, []
    for number in range(turns):
        while len(chain) < prompt // BLOCK_TOKENS:
            chain.append(rng.getrandbits(60))
        output = int(min(max(_lognormal(rng, answer, 0.8), 2), MAX_OUTPUT))
        pause_s = _lognormal(rng, 12.0, 1.0) if number else 0.0
        made.append(Turn(pause_s, prompt, output, tuple(chain)))
        prompt += output + int(_lognormal(rng, more, 1.0))
        if prompt > MAX_PROMPT:
            break
    return tuple(made)


def chat(rng: Random) -> Iterator[Conversation]:
    """People talking: short prompts, answers of some hundred tokens, a few turns."""
    at_s = 0.0
    while True:
        at_s += rng.expovariate(1.0)
        prompt, _ = _lengths(rng, 350, 1)
        turns = _grown(rng, prompt, 1 + int(rng.expovariate(0.5)), 80, 180)
        yield Conversation(at_s, _client(rng), turns)


def completion(rng: Random) -> Iterator[Conversation]:
    """Editors completing code: long prompts, tiny answers, many at once."""
    at_s = 0.0
    while True:
        at_s += rng.expovariate(1 / 3)
        client = _client(rng)
        for _ in range(1 + int(rng.expovariate(1 / 3))):
            at_s += rng.expovariate(4.0)
            prompt, output = _lengths(rng, 1600, 18)
            yield Conversation(at_s, client, (Turn(0.0, prompt, output),))


def agents(rng: Random) -> Iterator[Conversation]:
    """Agents at work: a long common prompt, many turns, each extending the last."""
    at_s = 0.0
    while True:
        at_s += rng.expovariate(1.0)
        turns = _grown(rng, rng.randrange(3000, 7000), 5 + int(rng.expovariate(0.1)), 250, 150)
        yield Conversation(at_s, _client(rng), turns)


def bursts(rng: Random) -> Iterator[Conversation]:
    """Batches that arrive in a second, then quiet."""
    at_s = 0.0
    while True:
        at_s += rng.expovariate(1 / 20)
        client = _client(rng)
        for _ in range(4 + int(rng.expovariate(1 / 12))):
            at_s += rng.expovariate(10.0)
            yield Conversation(at_s, client, (Turn(0.0, *_lengths(rng, 600, 120)),))


def long_answers(rng: Random) -> Iterator[Conversation]:
    """Reasoning models: answers of heavy tail."""
    at_s = 0.0
    while True:
        at_s += rng.expovariate(1.0)
        prompt, _ = _lengths(rng, 300, 1)
        output = int(min(max(rng.paretovariate(1.3) * 250, 20), MAX_OUTPUT))
        yield Conversation(at_s, _client(rng), (Turn(0.0, prompt, output),))


BUILT_IN: Mapping[str, Source] = MappingProxyType(
    {
        "chat": chat,
        "completion": completion,
        "agents": agents,
        "bursts": bursts,
        "long-answers": long_answers,
    }
)


def _client(rng: Random) -> str:
    """Some clients ask far more than others."""
    return f"client-{min(int(rng.paretovariate(0.8)), 16):02}"


def scaled(
    source: Iterator[Conversation], rng: Random, mix: Mix, rate_s: float, horizon_s: float
) -> list[Conversation]:
    """Conversations with `rate_s` requests a second for `horizon_s`, each given a model.

    Conversations start evenly stretched over the horizon; the pauses within them stay.
    """
    wanted = max(1, round(rate_s * horizon_s))
    taken: list[Conversation] = []
    count = 0
    for conversation in source:
        taken.append(conversation)
        count += len(conversation.turns)
        if count >= wanted:
            break
    if not taken:
        raise ValueError("the workload has no requests")
    start_s = taken[0].at_s
    span_s = max(taken[-1].at_s - start_s, 1e-6)
    stretch = horizon_s * count / wanted / span_s
    names, weights = list(mix.shares), list(mix.shares.values())
    favourite: dict[str, str] = {}
    made = []
    for conversation in taken:
        client = conversation.client
        if client not in favourite:
            favourite[client] = rng.choices(names, weights)[0]
        is_usual = rng.random() < 0.5
        model = favourite[client] if is_usual else rng.choices(names, weights)[0]
        at_s = (conversation.at_s - start_s) * stretch
        made.append(msgspec.structs.replace(conversation, at_s=at_s, model=model))
    return made


def repeated(conversations: Sequence[Conversation], skip: int) -> Iterator[Conversation]:
    """A recorded workload from its `skip`-th conversation on, again and again."""
    if not conversations:
        return
    first = conversations[skip % len(conversations)].at_s
    gaps = [max(0.0, b.at_s - a.at_s) for a, b in pairwise(conversations)]
    mean_s = sum(gaps) / len(gaps) if gaps else 1.0
    at_s, index = first, skip % len(conversations)
    while True:
        yield msgspec.structs.replace(conversations[index], at_s=at_s)
        at_s += gaps[index] if index < len(gaps) else mean_s
        index = (index + 1) % len(conversations)


def mean_lengths(conversations: Sequence[Conversation]) -> tuple[float, float]:
    """Mean prompt and output tokens of a request."""
    turns = [turn for c in conversations for turn in c.turns]
    return (
        sum(turn.prompt for turn in turns) / len(turns),
        sum(turn.output for turn in turns) / len(turns),
    )
