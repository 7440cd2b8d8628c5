"""What the reference policy expects of lengths: answers, what is left of them, what comes back."""

from bisect import bisect_right, insort
from collections import deque
from itertools import accumulate
from math import exp

from ollama_herd.core.request import InferenceRequest, Kind

DEFAULT_OUTPUT = 200.0
WINDOW = 200
FORGETTING = 0.97
BLOCK_SHRINK, CLIENT_SHRINK, MODEL_SHRINK = 3.0, 4.0, 8.0
PROMPT_GAIN = 0.1

CONTINUED_PRIOR = 0.2
CONTINUED_FORGETTING = 0.99
GAPS = 100
USUAL_GAP_S = 60.0
CHAINS = 1024


class ModelLengths:
    """One model's last answers, and how its prompts compare with their estimates."""

    def __init__(self) -> None:
        self.last: deque[float] = deque()
        self.ordered: list[float] = []
        self.total = 0.0
        self.longer: list[float] = []  # sums of `ordered` from each place on, when known
        self.prompt_ratio = 1.0
        self.prompt = 500.0  # of a usual request
        self.means: dict[str | int, tuple[float, float]] = {}  # by client, first block: sum, weight

    def add(self, tokens: float) -> None:
        if len(self.last) >= WINDOW:
            oldest = self.last.popleft()
            self.ordered.pop(bisect_right(self.ordered, oldest) - 1)
            self.total -= oldest
        self.last.append(tokens)
        insort(self.ordered, tokens)
        self.total += tokens
        self.longer = []

    @property
    def mean(self) -> float:
        return (self.total + MODEL_SHRINK * DEFAULT_OUTPUT) / (len(self.last) + MODEL_SHRINK)

    def shrunk(self, key: str | int, shrink: float, wider: float) -> float:
        total, weight = self.means.get(key, (0.0, 0.0))
        return (total + shrink * wider) / (weight + shrink)

    def note(self, key: str | int, tokens: float) -> None:
        total, weight = self.means.get(key, (0.0, 0.0))
        self.means[key] = (FORGETTING * total + tokens, FORGETTING * weight + 1)

    def rest(self, streamed: float) -> float:
        """Tokens to come after so many: mean residual life, with two samples of a prior."""
        if not self.longer:
            self.longer = [*accumulate(reversed(self.ordered), initial=0.0)][::-1]
        first = bisect_right(self.ordered, streamed)
        count = len(self.ordered) - first
        excess = self.longer[first] - count * streamed
        return (excess + 2 * (0.5 * streamed + 40)) / (count + 2)


class Lengths:
    """Of all models, by canonical name."""

    def __init__(self) -> None:
        self._models: dict[str, ModelLengths] = {}

    def model(self, model_key: str) -> ModelLengths:
        return self._models.setdefault(model_key, ModelLengths())

    def prompt(self, request: InferenceRequest) -> float:
        """The estimate, corrected by what the model's engine counted before."""
        return max(1.0, request.prompt_tokens * self.model(request.model_key).prompt_ratio)

    def output(self, request: InferenceRequest) -> float:
        """Expected tokens of the answer."""
        if request.kind is Kind.EMBED:
            return 0.0
        model = self.model(request.model_key)
        expected = model.shrunk(request.client, CLIENT_SHRINK, model.mean)
        if request.prefix:
            expected = model.shrunk(request.prefix[0], BLOCK_SHRINK, expected)
        return _capped(expected, request.max_tokens)

    def rest(self, request: InferenceRequest, streamed: float) -> float:
        """Tokens still to come of its answer, of which `streamed` are out."""
        limit = request.max_tokens
        left = None if limit is None else int(limit - streamed)
        return _capped(self.model(request.model_key).rest(streamed), left)

    def learn(self, request: InferenceRequest, prompt: float | None, output: float) -> None:
        """A whole answer."""
        model = self.model(request.model_key)
        if prompt:
            ratio = prompt / max(1, request.prompt_tokens)
            model.prompt_ratio += PROMPT_GAIN * (ratio - model.prompt_ratio)
            model.prompt += PROMPT_GAIN * (prompt - model.prompt)
        if request.kind is Kind.EMBED:
            return
        model.add(output)
        model.note(request.client, output)
        if request.prefix:
            model.note(request.prefix[0], output)


def _capped(tokens: float, limit: int | None) -> float:
    return tokens if limit is None else min(tokens, max(float(limit), 0.0))


class Continuations:
    """How likely a conversation of one model comes back after so long a pause."""

    def __init__(self) -> None:
        self._extended, self._count = CONTINUED_PRIOR, 1.0
        self._gaps: deque[float] = deque(maxlen=GAPS)
        self._ordered: list[float] = []
        self._asked: dict[int, float] = {}  # last block of a prompt: when it was asked

    def arrived(self, chain: tuple[int, ...], now_s: float) -> None:
        if not chain:
            return
        before = next((self._asked.pop(b) for b in reversed(chain) if b in self._asked), None)
        self._extended = CONTINUED_FORGETTING * self._extended + (before is not None)
        self._count = CONTINUED_FORGETTING * self._count + 1
        if before is not None:
            self._gaps.append(now_s - before)
            self._ordered = sorted(self._gaps)
        self._asked[chain[-1]] = now_s
        if len(self._asked) > CHAINS:
            del self._asked[next(iter(self._asked))]

    def chance(self, idle_s: float) -> float:
        share = min(self._extended / self._count, 0.99)
        survives = exp(-idle_s / USUAL_GAP_S)
        if self._ordered:
            longer = len(self._ordered) - bisect_right(self._ordered, idle_s)
            survives = longer / len(self._ordered)
        return share * survives / (share * survives + 1 - share)
