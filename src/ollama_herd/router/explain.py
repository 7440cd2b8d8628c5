"""`GET /fleet/explain`: where a request would go now, and why."""

from collections.abc import Mapping

from ollama_herd.clock import monotonic_s
from ollama_herd.core.names import canonical_name
from ollama_herd.core.request import Dialect, InferenceRequest, Kind

LARGEST = 10_000_000
_NUMBERS = ("prompt_tokens", "max_tokens", "num_ctx")


class BadQuestion(ValueError):  # noqa: N818 - an answer to a caller, not a defect
    """The text says which parameter is wrong."""


def asked(query: Mapping[str, str]) -> InferenceRequest:
    """The request a query describes: `model`, `prompt_tokens`, `max_tokens`, `num_ctx`.

    Raises BadQuestion.
    """
    model = query.get("model", "").strip()
    if not model:
        raise BadQuestion("name a model: /fleet/explain?model=NAME&prompt_tokens=N")
    numbers: dict[str, int] = {}
    for name in _NUMBERS:
        text = query.get(name)
        if text is None:
            continue
        if not (text.isascii() and text.isdigit() and len(text) <= 8 and int(text) <= LARGEST):
            raise BadQuestion(f"{name} must be a whole number up to {LARGEST}")
        numbers[name] = int(text)
    return InferenceRequest(
        request_id="explain",
        model=model,
        model_key=canonical_name(model),
        kind=Kind.CHAT,
        dialect=Dialect.OLLAMA,
        path="/api/chat",
        arrived_s=monotonic_s(),
        stream=True,
        prompt_tokens=numbers.get("prompt_tokens", 500),
        max_tokens=numbers.get("max_tokens"),
        load_options=(("num_ctx", numbers["num_ctx"]),) if "num_ctx" in numbers else (),
    )
