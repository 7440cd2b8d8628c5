"""Which models make pictures and which write down speech, by the capabilities that engines tell."""

from collections.abc import Mapping
from types import MappingProxyType

from ollama_herd.core.node import EngineKind, Model, Replica
from ollama_herd.core.request import Kind

IMAGE = "image"
"""Ollama's own word for a model that makes pictures (types/model/capability.go)."""

TRANSCRIPTION = "transcription"
"""Our word for a model that does nothing but write down speech."""

AUDIO = "audio"
"""Ollama's word for a chat model that hears; it transcribes by being asked to."""

WORDS: Mapping[Kind, frozenset[str]] = MappingProxyType(
    {Kind.IMAGE: frozenset({IMAGE}), Kind.SPEECH: frozenset({TRANSCRIPTION, AUDIO})}
)
"""One of these makes a model fit for a kind of request."""

IMAGE_SERVICE = "image-service"
SPEECH_SERVICE = "speech-service"
"""Ids of the engines that an agent itself is, for what is installed on its machine."""

_ONLY = frozenset({IMAGE, TRANSCRIPTION})
"""A model that can do one of these and nothing else is sure to do nothing else."""


def is_able(replica: Replica, kind: Kind) -> bool:
    """Whether a request for pictures or speech can go there, as far as anybody knows.

    Ollama tells capabilities; other engines rarely do, so what they do not tell counts as able:
    the engine's own answer is better than a guess.
    """
    told = replica.model.capabilities
    if not told or not WORDS[kind].isdisjoint(told):
        return True
    return replica.kind is not EngineKind.OLLAMA and _ONLY.isdisjoint(told)


def purpose(model: Model) -> str:
    """`image`, `speech`, `embedding` or `text`: what a model is for."""
    told = model.capabilities
    if IMAGE in told:
        return Kind.IMAGE.value
    if TRANSCRIPTION in told:
        return Kind.SPEECH.value
    return "embedding" if told == ("embedding",) else "text"
