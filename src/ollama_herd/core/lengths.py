"""How long answers will be, and how many tokens a prompt really has: learned by use.

Owned by the predictor. Bounded: the least recently used statistics go first.
"""

from bisect import bisect_right, insort
from collections import deque
from itertools import accumulate

from ollama_herd.core.learned import ModelLengthsState
from ollama_herd.core.request import InferenceRequest, Kind

DEFAULT_OUTPUT_TOKENS = 200.0
"""Answer length before anything is known: about the median of public chat traces."""

MODEL_WINDOW = 200
"""Last answers of a model that are remembered one by one."""

FORGETTING = 0.97
MODEL_SHRINK = 8.0
CLIENT_SHRINK = 4.0
BLOCK_SHRINK = 3.0
"""How many samples of the wider statistic count beside those of the narrower (routing study)."""

MAX_KEYS = 8192
"""Clients and first blocks remembered; a key is some 200 bytes."""

PROMPT_GAIN = 0.1
PROMPT_RATIO_LIMIT = 4.0
"""The estimate is characters / 4: code and CJK text are off by up to this factor."""


class Mean:
    """A mean that forgets: `total / weight` over samples discounted by age."""

    __slots__ = ("total", "weight")

    def __init__(self, total: float = 0.0, weight: float = 0.0) -> None:
        self.total = total
        self.weight = weight

    def add(self, value: float) -> None:
        self.total = FORGETTING * self.total + value
        self.weight = FORGETTING * self.weight + 1


class ModelLengths:
    """The last answers of one model, in order of arrival and of length."""

    __slots__ = ("mean", "ordered", "prompt_ratio", "recent", "suffix", "total")

    def __init__(self) -> None:
        self.recent: deque[float] = deque()
        self.ordered: list[float] = []
        self.suffix: list[float] | None = None  # sums of `ordered` from each index on
        self.total = 0.0
        self.mean = DEFAULT_OUTPUT_TOKENS
        self.prompt_ratio = 1.0

    def add(self, tokens: float) -> None:
        if len(self.recent) >= MODEL_WINDOW:
            oldest = self.recent.popleft()
            self.ordered.pop(bisect_right(self.ordered, oldest) - 1)
            self.total -= oldest
        self.recent.append(tokens)
        insort(self.ordered, tokens)
        self.suffix = None
        self.total += tokens
        count = len(self.ordered) + MODEL_SHRINK
        self.mean = (self.total + MODEL_SHRINK * DEFAULT_OUTPUT_TOKENS) / count

    def sums(self) -> list[float]:
        """Of `ordered`, from each index on."""
        self.suffix = [*accumulate(reversed(self.ordered), initial=0.0)]
        self.suffix.reverse()
        return self.suffix


class Lengths:
    """Expected tokens of answers and prompts, by model, client and first block of the prompt."""

    __slots__ = ("_means", "_models")

    def __init__(self) -> None:
        self._models: dict[str, ModelLengths] = {}
        self._means: dict[tuple[str, str | int], Mean] = {}

    def output_tokens(self, request: InferenceRequest) -> float:
        """Expected answer length; 0 for what generates nothing, the work of what writes none."""
        if request.work:
            return float(request.work)
        if request.kind is Kind.EMBED or request.is_load_only:
            return 0.0
        model = self._models.get(request.model_key)
        if model is None:
            expected = DEFAULT_OUTPUT_TOKENS
        else:
            expected = model.mean
            means = self._means
            mean = means.get((request.model_key, request.client))
            if mean is not None:
                expected = (mean.total + CLIENT_SHRINK * expected) / (mean.weight + CLIENT_SHRINK)
            if request.prefix:
                mean = means.get((request.model_key, request.prefix[0]))
                if mean is not None:
                    expected = (mean.total + BLOCK_SHRINK * expected) / (mean.weight + BLOCK_SHRINK)
        limit = request.max_tokens
        if limit is not None and 0 <= limit < expected:
            return float(limit)
        return expected

    def residual_tokens(self, model_key: str, streamed: float, max_tokens: int | None) -> float:
        """Tokens still to come of a running answer that has `streamed` already: mean residual life.

        Long answers tend to be longer still, hence a prior of 40 plus half of what is out, with the
        weight of two answers.
        """
        model = self._models.get(model_key)
        if model is None:
            rest = 0.5 * streamed + 40 if streamed else DEFAULT_OUTPUT_TOKENS
        else:
            ordered, sums = model.ordered, model.suffix
            if sums is None:
                sums = model.sums()
            start = bisect_right(ordered, streamed)
            longer = len(ordered) - start
            rest = (sums[start] - longer * streamed + (streamed + 80.0)) / (longer + 2)
        if max_tokens is not None and max_tokens >= 0:
            return min(rest, max(0.0, max_tokens - streamed))
        return rest

    def prompt_tokens(self, request: InferenceRequest) -> float:
        """The estimate of the request, corrected by what this model's tokenizer counted before."""
        if request.is_load_only:
            return 0.0
        model = self._models.get(request.model_key)
        tokens = float(request.prompt_tokens)
        if model is not None:
            tokens *= model.prompt_ratio
        return tokens if tokens > 1 else 1.0

    def learn_output(self, request: InferenceRequest, tokens: float) -> None:
        """A completed answer had `tokens`."""
        self._model(request.model_key).add(tokens)
        self._mean((request.model_key, request.client)).add(tokens)
        if request.prefix:
            self._mean((request.model_key, request.prefix[0])).add(tokens)

    def learn_prompt(self, request: InferenceRequest, tokens: int) -> None:
        """The engine counted `tokens` in the prompt. Short prompts say more of the template."""
        if request.prompt_tokens < 64 or tokens <= 0:
            return
        model = self._model(request.model_key)
        seen = min(max(tokens / request.prompt_tokens, 1 / PROMPT_RATIO_LIMIT), PROMPT_RATIO_LIMIT)
        model.prompt_ratio += PROMPT_GAIN * (seen - model.prompt_ratio)

    def state(self) -> tuple[ModelLengthsState, ...]:
        return tuple(
            ModelLengthsState(key, tuple(model.recent), model.prompt_ratio)
            for key, model in self._models.items()
        )

    def restore(self, states: tuple[ModelLengthsState, ...]) -> None:
        for state in states:
            model = self._model(state.model_key)
            for tokens in state.recent[-MODEL_WINDOW:]:
                model.add(tokens)
            model.prompt_ratio = min(
                max(state.prompt_ratio, 1 / PROMPT_RATIO_LIMIT), PROMPT_RATIO_LIMIT
            )

    def _model(self, key: str) -> ModelLengths:
        found = self._models.get(key)
        if found is None:
            found = self._models[key] = ModelLengths()
        return found

    def _mean(self, key: tuple[str, str | int]) -> Mean:
        found = self._means.pop(key, None) or Mean()
        self._means[key] = found  # last in order: most recently used
        if len(self._means) > MAX_KEYS:
            del self._means[next(iter(self._means))]
        return found
