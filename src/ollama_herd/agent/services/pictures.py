"""The picture service: OpenAI's `/v1/images/generations` over commands of this machine."""

import base64
from typing import Any

import msgspec
from aiohttp import web

from ollama_herd.agent.services.local import Handler, refusal
from ollama_herd.agent.services.painter import Painter, PaintingFailed, seeds_of
from ollama_herd.agent.services.recipes import Picture
from ollama_herd.clock import now_s
from ollama_herd.core.abilities import IMAGE_SERVICE
from ollama_herd.core.node import Model

ROUND_TO = 16
"""Sides that models of this kind take are multiples of it; others are cut down."""

MAX_PICTURES = 10


class _Asked(msgspec.Struct):
    model: str
    prompt: str
    n: int | None = None
    size: str | None = None
    seed: int | None = None
    steps: int | None = None
    guidance: float | None = None
    negative_prompt: str | None = None
    quantize: int | None = None


class PictureSkill:
    """A `Skill` over a painter."""

    engine_id = IMAGE_SERVICE

    def __init__(self, painter: Painter) -> None:
        self._painter = painter
        self.routes: dict[str, Handler] = {"/v1/images/generations": self._generate}
        self._has_models = False
        painter.clear()

    def look(self) -> tuple[Model, ...]:
        models = self._painter.look()
        self._has_models = bool(models)
        return models

    @property
    def complaint(self) -> str:
        painter = self._painter
        return painter.to_install if painter.is_installed and not self._has_models else ""

    async def close(self) -> None:
        self._painter.clear()

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        try:
            asked = msgspec.json.decode(await request.read(), type=_Asked)
            picture = _picture(asked)
        except (msgspec.MsgspecError, UnicodeDecodeError, ValueError) as error:
            return refusal(400, f"the request for a picture cannot be read: {error}")
        try:
            made = await self._painter.paint(asked.model, picture, lambda *_: None)
        except PaintingFailed as failed:
            return refusal(failed.status, str(failed))
        data = [{"b64_json": base64.b64encode(one).decode()} for one in made]
        body: dict[str, Any] = {"created": int(now_s()), "data": data}
        return web.Response(body=msgspec.json.encode(body), content_type="application/json")


def _picture(asked: _Asked) -> Picture:
    """Raises ValueError."""
    width = height = None
    if asked.size and asked.size != "auto":
        first, _, second = asked.size.partition("x")
        width, height = _side(first), _side(second)
    n = asked.n or 1
    if not 1 <= n <= MAX_PICTURES:
        raise ValueError(f"n must be from 1 to {MAX_PICTURES}")
    return Picture(
        prompt=asked.prompt,
        seeds=seeds_of(asked.seed, n),
        width=width,
        height=height,
        steps=asked.steps,
        guidance=asked.guidance,
        negative_prompt=asked.negative_prompt or "",
        quantize=asked.quantize,
    )


def _side(text: str) -> int:
    return max(ROUND_TO, int(text) // ROUND_TO * ROUND_TO)
