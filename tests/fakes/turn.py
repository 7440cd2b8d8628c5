"""One generation of a fake engine: what is said, and what it counts in the end."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any

from ollama_herd import clock
from tests.fakes.models import FakeModel
from tests.fakes.state import Scripted, Settings

FROZEN_S = 1795342620.0
"""The clock of a frozen fake: the minute of the recordings."""

_WORDS = (" the", " sky", " is", " <b>", " &", "\n", "に行", " ünd", '"', "\\", " so", " on")
"""Tokens that need every kind of escaping Go does."""

MANY_TOKENS = 100_000
"""What `num_predict: -1` comes to."""


@dataclass(frozen=True)
class Token:
    """A piece of text, said aloud or thought."""

    text: str
    is_thinking: bool = False


@dataclass
class Turn:
    """A request that has passed all checks, and its answer. Durations are ns."""

    asked: dict[str, Any]
    model: FakeModel
    tokens: Iterable[Token]
    done_reason: str
    prompt_tokens: int
    tool_calls: tuple[dict[str, Any], ...] = ()
    is_frozen: bool = False
    load_s: float = 0.0
    made_s: float = field(default_factory=clock.now_s)
    begun_s: float = 0.0
    first_s: float = 0.0
    said: list[Token] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The model as the client wrote it; answers echo it."""
        return str(self.asked["model"])

    def now_s(self) -> float:
        """The time written into answers."""
        return FROZEN_S + 0.01 * len(self.said) if self.is_frozen else clock.now_s()

    def number(self, below: int) -> int:
        """A made-up id: random in the real one, the same for every request when frozen."""
        return 715 % below if self.is_frozen else int(self.made_s * 1e6) % below

    def text(self) -> str:
        """All that has been said aloud."""
        return "".join(token.text for token in self.said if not token.is_thinking)

    def thought(self) -> str:
        """All that has been thought."""
        return "".join(token.text for token in self.said if token.is_thinking)

    def durations(self) -> dict[str, int]:
        """The last fields of a final object; Go leaves out what is zero."""
        if self.is_frozen:
            load, prefill, decode = 852863, 90750000, 1000000 * len(self.said)
            total = load + prefill + decode
        else:
            now_s = clock.monotonic_s()
            load = int(self.load_s * 1e9) + 1
            prefill = int((self.first_s - self.begun_s) * 1e9) + 1
            decode = int((now_s - self.first_s) * 1e9) + 1
            total = load + prefill + decode
        return {
            "total_duration": total,
            "load_duration": load,
            "prompt_eval_count": self.prompt_tokens,
            "prompt_eval_duration": prefill,
            "eval_count": max(1, len(self.said)),
            "eval_duration": decode,
        }


def compose(
    asked: dict[str, Any],
    model: FakeModel,
    *,
    prompt: str,
    max_tokens: int | None,
    is_thinking: bool,
    script: Scripted | None,
    settings: Settings,
    begun: str = "",
) -> Turn:
    """The answer to a prompt: the scripted one, or words up to the limit asked for.

    `begun` is what the request says of it already.
    """
    tokens: Iterable[Token]
    if begun:
        return _going_on(
            compose(
                asked,
                model,
                prompt=prompt,
                max_tokens=max_tokens + len(begun) if max_tokens and max_tokens > 0 else max_tokens,
                is_thinking=is_thinking,
                script=script,
                settings=settings,
            ),
            begun,
            max_tokens,
            settings,
        )
    if script is not None:
        said = [Token(text, is_thinking=True) for text in script.thinking]
        said += [Token(text) for text in script.tokens]
        done_reason = script.done_reason
        if max_tokens is not None and 0 < max_tokens < len(said):
            said, done_reason = said[:max_tokens], "length"
        tokens, tool_calls = said, script.tool_calls
    else:
        limit = settings.answer_tokens if max_tokens is None else max_tokens
        limit = MANY_TOKENS if limit < 0 else limit
        tokens = _words(prompt, limit, is_thinking=is_thinking)  # said one by one: may be many
        done_reason = "stop" if max_tokens is None else "length"
        tool_calls = ()
    return Turn(
        asked=asked,
        model=model,
        tokens=tokens,
        done_reason=done_reason,
        prompt_tokens=max(1, len(prompt.split())) + 9,
        tool_calls=tool_calls,
        is_frozen=settings.is_frozen,
    )


def _going_on(turn: Turn, begun: str, max_tokens: int | None, settings: Settings) -> Turn:
    """The same answer without the tokens that `begun` ends with; all of it when there are none."""
    rest = iter(turn.tokens)
    skipped: list[Token] = []
    text = ""
    whole = list(islice(rest, len(begun) + settings.answer_tokens + 1))
    for count in range(len(whole), 0, -1):
        text = "".join(token.text for token in whole[:count])
        if text == begun or (count > 1 and begun.endswith(text)):
            skipped = whole[:count]
            break
    turn.prompt_tokens += len(skipped)
    tokens = whole if settings.continues == "anew" else whole[len(skipped) :]
    if settings.continues == "echo" and tokens:
        tokens = [Token(text + tokens[0].text), *tokens[1:]]
    if max_tokens is not None and max_tokens >= 0:
        turn.done_reason = "length" if len(tokens) >= max_tokens else turn.done_reason
        turn.tokens = tokens[:max_tokens]
    else:
        turn.tokens = chain(tokens, rest)
    return turn


def _words(prompt: str, limit: int, *, is_thinking: bool) -> Iterator[Token]:
    spoken = prompt.split() or ["…"]
    for i in range(limit):
        text = spoken[i] if i < min(2, len(spoken)) else _WORDS[i % len(_WORDS)]
        yield Token(text, is_thinking=is_thinking)
