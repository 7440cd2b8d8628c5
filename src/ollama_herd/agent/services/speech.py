"""The speech service: OpenAI's `/v1/audio/transcriptions` over recognisers of this machine."""

import asyncio
import shutil
from pathlib import Path

import aiohttp
from aiohttp import web

from ollama_herd.agent.services.folders import clear_work, new_work
from ollama_herd.agent.services.listener import WEIGHTS, Listener, ListeningFailed
from ollama_herd.agent.services.local import Handler, refusal
from ollama_herd.agent.services.transcripts import FORMATS, GRANULARITIES, SEGMENTS, rendered
from ollama_herd.core.abilities import SPEECH_SERVICE
from ollama_herd.core.node import Model

CHUNK_BYTES = 1024 * 1024
MAX_FIELD_BYTES = 1024 * 1024
MAX_FIELDS = 100


class _Form:
    """A recording on the disk, and the fields sent with it."""

    def __init__(self) -> None:
        self.fields: dict[str, str] = {}
        self.granularities: set[str] = set()
        self.path: Path | None = None


class SpeechSkill:
    """A `Skill` over a listener. A recording goes to a file as it comes, removed at the end."""

    engine_id = SPEECH_SERVICE

    def __init__(self, listener: Listener, home: Path) -> None:
        self._listener = listener
        self._folder = home / "recordings"
        self.routes: dict[str, Handler] = {
            "/v1/audio/transcriptions": self._transcribe,
            "/v1/audio/translations": _translate,
        }
        self._has_models = False
        self._clear()

    def look(self) -> tuple[Model, ...]:
        models = self._listener.look()
        self._has_models = bool(models)
        return models

    @property
    def complaint(self) -> str:
        if self._has_models or not self._listener.is_installed:
            return ""
        names = " or ".join(WEIGHTS.values())
        return f"Qwen3-ASR is installed, but no weights for it: fetch {names} with `hf download`"

    @property
    def doing(self) -> str:
        return self._listener.doing

    async def close(self) -> None:
        await self._listener.close()
        self._clear()

    def _clear(self) -> None:
        """Remove recordings, also those that an agent that was killed left behind."""
        clear_work(self._folder)

    async def _transcribe(self, request: web.Request) -> web.StreamResponse:
        work: Path | None = None
        try:
            work = new_work(self._folder)
            form = await _read(request, work)
            return await self._answer(form)
        except (ValueError, AssertionError, aiohttp.ClientPayloadError):
            return refusal(400, "the body is no multipart form, or is cut short")
        except OSError as error:
            why = error.strerror or "the disk cannot be written"
            return refusal(500, f"the recording cannot be kept on this node: {why}")
        finally:
            if work is not None:
                shutil.rmtree(work, ignore_errors=True)

    async def _answer(self, form: _Form) -> web.Response:
        layout = form.fields.get("response_format") or "json"
        if form.path is None:
            return refusal(400, "file is required: a form field of that name with the recording")
        if layout not in FORMATS:
            return refusal(400, f"response_format must be one of {', '.join(FORMATS)}")
        wrong = _wrong_times(form.granularities, layout)
        if wrong:
            return refusal(400, wrong)
        if form.fields.get("stream") == "true":
            return refusal(400, "this recogniser does not stream; leave stream out")
        asked = {
            "path": str(form.path),
            "language": form.fields.get("language", ""),
            "prompt": form.fields.get("prompt", ""),
            "words": "word" in form.granularities,
        }
        try:
            said = await self._listener.write_down(form.fields.get("model", ""), asked)
        except ListeningFailed as failed:
            return refusal(failed.status, str(failed))
        content_type, body = rendered(said, layout, frozenset(form.granularities) or SEGMENTS)
        return web.Response(body=body, content_type=content_type, charset="utf-8")


_TIMES_FIELDS = frozenset({"timestamp_granularities[]", "timestamp_granularities"})
"""OpenAI's name of the field, which may be there twice, and that name without its brackets."""


def _wrong_times(wanted: set[str], layout: str) -> str:
    """What is wrong with the times asked for, "" when nothing is."""
    if not wanted <= set(GRANULARITIES):
        return f"timestamp_granularities must be of {', '.join(GRANULARITIES)}"
    if wanted and layout != "verbose_json":
        return "timestamp_granularities needs response_format verbose_json"
    return ""


async def _translate(_request: web.Request) -> web.StreamResponse:
    return refusal(400, "this recogniser does not translate; ask for a transcription")


async def _read(request: web.Request, work: Path) -> _Form:
    """The form, its file on the disk. Raises ValueError for what is none."""
    form = _Form()
    count = 0
    async for part in await request.multipart():
        count += 1
        if not isinstance(part, aiohttp.BodyPartReader) or count > MAX_FIELDS:
            raise ValueError("no plain form")
        if part.filename is not None or part.name == "file":
            ending = "".join(c for c in Path(part.filename or "").suffix if c.isalnum() or c == ".")
            form.path = work / f"recording{ending[:8]}"
            with form.path.open("wb") as file:
                while piece := await part.read_chunk(CHUNK_BYTES):
                    await asyncio.to_thread(file.write, piece)
        else:
            text = bytearray()
            while piece := await part.read_chunk(65536):
                text += piece
                if len(text) > MAX_FIELD_BYTES:
                    raise ValueError("a field is too long")
            value = text.decode("utf-8", "replace")
            if part.name in _TIMES_FIELDS:
                form.granularities.update(value.replace(",", " ").split())
            else:
                form.fields[part.name or ""] = value
    return form
