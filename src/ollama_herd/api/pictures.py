"""Requests for pictures: what they may ask for, and the body an engine gets for them.

OpenAI's `/v1/images/generations` with `seed`, `steps`, `guidance` and `negative_prompt` as
extensions, and the herd's own `/api/generate-image`, which answers with the picture itself.
"""

import re
from enum import StrEnum
from typing import Any, Final

import msgspec

from ollama_herd.api.endpoints import Endpoint
from ollama_herd.api.errors import ApiError
from ollama_herd.api.parse import MAX_FALLBACKS
from ollama_herd.core.request import Dialect

MAX_PICTURES: Final = 10
"""OpenAI's own bound on `n`."""

MAX_PROMPT_CHARS: Final = 32_000
"""OpenAI's bound for its newest image models."""

SIDE_LEAST: Final = 64
SIDE_MOST: Final = 4096
"""Pixels of a side: smaller is no picture to any model, larger fits no GPU of a household."""

MAX_STEPS: Final = 200
USUAL_STEPS: Final = 20
"""Denoising steps that are counted on when the request does not say."""

_PIXELS_OF_A_UNIT: Final = 1024 * 1024
_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})", re.IGNORECASE)


class Delivery(StrEnum):
    """How the client wants its pictures."""

    BASE64 = "b64_json"
    URL = "url"
    PLAIN = "plain"  # the bytes of the one picture


class PictureAsk(msgspec.Struct, frozen=True):
    """A request for pictures. `size` is (width, height) in pixels, None when left to the model.

    `members` is the client's JSON object.
    """

    model: str
    prompt: str
    delivery: Delivery
    members: dict[str, Any]
    n: int = 1
    size: tuple[int, int] | None = None
    steps: int | None = None
    seed: int | None = None
    fallback_models: tuple[str, ...] = ()
    stream: bool = False

    @property
    def work(self) -> int:
        """Steps of a picture of a megapixel, at least 1: what the time taken grows with."""
        width, height = self.size or (1024, 1024)
        steps = self.steps or USUAL_STEPS
        return max(1, round(self.n * steps * width * height / _PIXELS_OF_A_UNIT))


class _Wrong(Exception):  # noqa: N818 - an answer to a client, not a defect
    pass


def read_pictures(endpoint: Endpoint, body: bytes) -> PictureAsk | ApiError:
    """What is asked for, or what is wrong with it."""
    try:
        members = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return _refused(f"the body must be a JSON object: {error}")
    try:
        return _own(members) if endpoint.dialect is Dialect.OLLAMA else _openai(members)
    except _Wrong as wrong:
        return _refused(str(wrong))


def _refused(message: str) -> ApiError:
    return ApiError(400, message, "bad_body")


def _openai(members: dict[str, Any]) -> PictureAsk:
    wanted = members.get("response_format") or Delivery.BASE64.value
    if wanted not in (Delivery.BASE64, Delivery.URL):
        raise _Wrong("response_format must be b64_json or url")
    stream = members.get("stream") or False
    if not isinstance(stream, bool) or (stream and wanted == Delivery.URL):
        raise _Wrong("stream must be true or false, and true only with response_format b64_json")
    return PictureAsk(
        model=_model(members),
        prompt=_prompt(members),
        delivery=Delivery(wanted),
        members=members,
        n=_whole(members, "n", 1, MAX_PICTURES) or 1,
        stream=stream,
        size=_size(members.get("size")),
        steps=_whole(members, "steps", 1, MAX_STEPS),
        seed=_whole(members, "seed", 0, 2**63 - 1),
        fallback_models=_fallbacks(members),
    )


def _own(members: dict[str, Any]) -> PictureAsk:
    """`/api/generate-image`: `width` and `height` instead of `size`."""
    width = _whole(members, "width", SIDE_LEAST, SIDE_MOST)
    height = _whole(members, "height", SIDE_LEAST, SIDE_MOST)
    size = _size(members.get("size"))
    if width or height:
        size = (width or height or 0, height or width or 0)
    return PictureAsk(
        model=_model(members),
        prompt=_prompt(members),
        delivery=Delivery.PLAIN,
        members=members,
        size=size,
        steps=_whole(members, "steps", 1, MAX_STEPS),
        seed=_whole(members, "seed", 0, 2**63 - 1),
        fallback_models=_fallbacks(members),
    )


def _text(members: dict[str, Any], name: str, hint: str = "") -> str:
    value = members.get(name)
    if not isinstance(value, str) or not value.strip():
        raise _Wrong(f"{name} is required{hint}")
    return value


def _model(members: dict[str, Any]) -> str:
    return _text(members, "model", "; GET /api/image-models lists those that make pictures")


def _fallbacks(members: dict[str, Any]) -> tuple[str, ...]:
    names = members.get("fallback_models") or ()
    if not isinstance(names, list) and names != ():
        raise _Wrong("fallback_models must be a list of model names")
    if len(names) > MAX_FALLBACKS or not all(isinstance(n, str) and n.strip() for n in names):
        raise _Wrong(f"fallback_models must be a list of at most {MAX_FALLBACKS} model names")
    return tuple(dict.fromkeys(names))


def _prompt(members: dict[str, Any]) -> str:
    prompt = _text(members, "prompt")
    if len(prompt) > MAX_PROMPT_CHARS:
        raise _Wrong(f"prompt is longer than {MAX_PROMPT_CHARS} characters")
    return prompt


def _whole(members: dict[str, Any], name: str, least: int, most: int) -> int | None:
    value = members.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise _Wrong(f"{name} must be a whole number from {least} to {most}")
    return value


def _size(value: object) -> tuple[int, int] | None:
    if value is None or value in ("auto", ""):
        return None
    found = _SIZE.fullmatch(value) if isinstance(value, str) else None
    sides = (int(found[1]), int(found[2])) if found else (0, 0)
    if not all(SIDE_LEAST <= side <= SIDE_MOST for side in sides):
        raise _Wrong(
            f"size must be WIDTHxHEIGHT with sides from {SIDE_LEAST} to {SIDE_MOST} pixels, "
            "like 1024x1024"
        )
    return sides


_OWN_MEMBERS = frozenset({"width", "height", "fallback_models"})


def openai_body(ask: PictureAsk, model: str) -> bytes:
    """The body for an engine with `/v1/images/generations`, which calls the model `model`.

    Pictures always come back as base64: a URL of the engine's would lead nowhere for the client.
    What is not ours to know passes as it came.
    """
    members = {key: value for key, value in ask.members.items() if key not in _OWN_MEMBERS}
    members |= {"model": model, "response_format": Delivery.BASE64.value}
    if ask.size is not None:
        members["size"] = f"{ask.size[0]}x{ask.size[1]}"
    return msgspec.json.encode(members)


def ollama_body(ask: PictureAsk, model: str) -> bytes:
    """The body for Ollama's `/api/generate` with a model that makes pictures."""
    members: dict[str, Any] = {"model": model, "prompt": ask.prompt, "stream": False}
    if ask.size is not None:
        members["width"], members["height"] = ask.size
    if ask.steps is not None:
        members["steps"] = ask.steps
    if ask.seed is not None:
        members["options"] = {"seed": ask.seed}
    return msgspec.json.encode(members)
