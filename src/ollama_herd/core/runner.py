"""Whether a request can use a runner as it is loaded, or makes its engine load the model anew.

A runner is a weights file with load-time options (api.Runner of Ollama). Ollama loads a model anew
for a request that asks for other ones than those it runs with, and a request that names no
`num_ctx` asks for the default (recorded exchanges 306 to 308). So such a request is given the
window that is loaded when that suffices; what a client names itself is never changed.
"""

from typing import Protocol

from ollama_herd.core.inflight import Options, ReplicaLoad
from ollama_herd.core.node import EngineKind
from ollama_herd.core.place import Place
from ollama_herd.core.request import Dialect, InferenceRequest

ANSWER_TOKENS = 512
"""Room for an answer that a request without bound must find in a window below the default."""

ANSWER_MARGIN = 2.0
"""And so many times what its answers usually take."""


class Asked(Protocol):
    """What counts of `signals.Ask` here: load-time options, tokens of prompt and answer."""

    request: InferenceRequest
    options: Options
    prompt: float
    output: float


def default_context(load: ReplicaLoad) -> int:
    """The context length of a request that names none; 0 when nothing has told it yet."""
    told = load.replica.default_context or load.learned_context
    trained = load.replica.model.details.context_length
    return min(told, trained) if told and trained else told


def options_at(place: Place, asked: Options) -> Options:
    """The load-time options of a request under this name: its own, else those of the Modelfile."""
    if not place.options or any(name == "num_ctx" for name, _ in asked):
        return asked
    return tuple(sorted((*asked, *place.options)))


def needs_reload(place: Place, ask: Asked) -> bool:
    """Whether the engine would load the model anew for this request as it came."""
    load = place.load
    wanted = options_at(place, ask.options)
    if wanted == load.options or load.replica.kind is EngineKind.OPENAI:
        return False
    # None: loaded by others, most likely with the engine's defaults.
    asked, context = _apart(wanted)
    known, known_context = _apart(load.options or ())
    if asked != known and (asked or load.options is not None):
        return True
    trained = load.replica.model.details.context_length
    if not context:
        context = default_context(load)
        if not context:
            return bool(known_context)
    effective = min(context, trained) if trained else context
    current = load.context_length or known_context or default_context(load)
    return effective != current if current else context != known_context


def adopted_context(place: Place, ask: Asked) -> int:
    """The `num_ctx` that lets a request without one use the window that is loaded; 0 when it has
    to stay as it is: it names its own, its dialect has no such field, or the window is too small.
    """
    load, request = place.load, ask.request
    if load.options is None or request.dialect is not Dialect.OLLAMA:
        return 0
    asked, context = _apart(ask.options)
    known, known_context = _apart(load.options)
    current = load.context_length or known_context
    if context or not current or asked != known:
        return 0
    if place.options:
        enough = int(place.options[0][1])  # what the model's author set
    else:
        answer = request.max_tokens
        if answer is None:
            answer = max(int(ANSWER_MARGIN * ask.output), ANSWER_TOKENS)
        needed = int(ask.prompt) + answer
        default = default_context(load)
        enough = min(needed, default) if default else needed
    # The very number it was loaded with: an engine may compare before it clamps.
    return (known_context or current) if current >= enough else 0


def _apart(options: Options) -> tuple[Options, int]:
    """All but `num_ctx`, and that; 0 when it is not among them."""
    for name, value in options:
        if name == "num_ctx":
            return tuple(pair for pair in options if pair[0] != "num_ctx"), int(value)
    return options, 0
