"""The picture service: OpenAI's `/v1/images/generations` over commands of this machine."""

import asyncio
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
    stream: bool | None = None


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

    @property
    def doing(self) -> str:
        return self._painter.doing

    async def close(self) -> None:
        self._painter.clear()

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        try:
            asked = msgspec.json.decode(await request.read(), type=_Asked)
            picture = _picture(asked)
        except (msgspec.MsgspecError, UnicodeDecodeError, ValueError) as error:
            return refusal(400, f"the request for a picture cannot be read: {error}")
        if asked.stream:
            return await self._stream(request, asked.model, picture)
        try:
            made = await self._painter.paint(asked.model, picture, lambda *_: None)
        except PaintingFailed as failed:
            return refusal(failed.status, str(failed))
        data = [{"b64_json": base64.b64encode(one).decode()} for one in made]
        body: dict[str, Any] = {"created": int(now_s()), "data": data}
        return web.Response(body=msgspec.json.encode(body), content_type="application/json")

    async def _stream(
        self, request: web.Request, model: str, picture: Picture
    ) -> web.StreamResponse:
        """Events: `image_generation.progress` a step, then `image_generation.completed` a picture.

        The head goes out with the first step: what fails before can be tried elsewhere.
        """
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        steps: asyncio.Queue[tuple[int, int] | None] = asyncio.Queue()
        painting = asyncio.ensure_future(
            self._painter.paint(model, picture, lambda *step: steps.put_nowait(step))
        )
        painting.add_done_callback(lambda _: steps.put_nowait(None))
        try:
            told = None
            while (step := await steps.get()) is not None:
                if step != told:
                    told = step
                    event = {"type": "image_generation.progress", "step": step[0]}
                    await _say(request, response, {**event, "steps": step[1]})
            for data in await painting:
                encoded = base64.b64encode(data).decode()
                completed = {"type": "image_generation.completed", "b64_json": encoded}
                await _say(request, response, {**completed, "created_at": int(now_s())})
        except PaintingFailed as failed:
            if not response.prepared:
                return refusal(failed.status, str(failed))
            await _say(request, response, {"type": "error", "error": {"message": str(failed)}})
        finally:
            painting.cancel()
            await asyncio.wait([painting])
        await response.write_eof()
        return response


async def _say(request: web.Request, response: web.StreamResponse, event: dict[str, Any]) -> None:
    if not response.prepared:
        await response.prepare(request)
    await response.write(b"data: " + msgspec.json.encode(event) + b"\n\n")


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
