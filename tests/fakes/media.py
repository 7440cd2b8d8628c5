"""A fake of an image and transcription server with OpenAI's API: real PNGs, counted recordings."""

import asyncio
import base64
import contextlib
import hashlib
import json
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from ollama_herd import clock


def png(width: int = 8, height: int = 8, colour: tuple[int, int, int] = (200, 30, 30)) -> bytes:
    """A real picture of one colour."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

    row = b"\0" + bytes(colour) * width
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(row * height))
        + chunk(b"IEND", b"")
    )


@dataclass
class Heard:
    """A transcription request: its fields, and size and digest of its file."""

    path: str
    fields: dict[str, str] = field(default_factory=dict)
    filename: str = ""
    size: int = 0
    sha256: str = ""


class FakeMedia:
    """One server. `delay_s` is how long a request takes, `status` other than 200 makes it fail."""

    def __init__(self, *models: str) -> None:
        self.models = models
        self.delay_s = 0.0
        self.status = 200
        self.breaks_off = False
        self.picture = png
        self.pictures: list[dict[str, Any]] = []
        self.heard: list[Heard] = []
        self.running = 0
        self.most_running = 0
        self.cancelled = 0
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @contextlib.contextmanager
    def in_thread(self) -> Iterator["FakeMedia"]:
        loop = asyncio.new_event_loop()
        ready, ended = threading.Event(), asyncio.Event()

        async def serve() -> None:
            runner = web.AppRunner(
                self._app(), handler_cancellation=True, access_log=None, shutdown_timeout=0.1
            )
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", self.port)
            await site.start()
            self.port = runner.addresses[0][1]
            ready.set()
            await ended.wait()
            await runner.cleanup()

        thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
        thread.start()
        assert ready.wait(10)
        try:
            yield self
        finally:
            loop.call_soon_threadsafe(ended.set)
            thread.join(10)
            loop.close()

    def wait_for(self, holds: Callable[["FakeMedia"], bool], within_s: float, what: str) -> None:
        deadline_s = clock.monotonic_s() + within_s
        pause = threading.Event()
        while not holds(self):
            assert clock.monotonic_s() < deadline_s, f"waited {within_s} s for {what}"
            pause.wait(0.01)

    def _app(self) -> web.Application:
        app = web.Application(client_max_size=2**20)
        app.router.add_get("/v1/models", self._list)
        app.router.add_post("/v1/images/generations", self._paint)
        for path in ("/v1/audio/transcriptions", "/v1/audio/translations", "/v1/images/edits"):
            app.router.add_post(path, self._listen)
        return app

    async def _list(self, _request: web.Request) -> web.Response:
        if not self.models:
            return web.Response(status=404, text="File Not Found")
        data = [{"id": name, "object": "model", "owned_by": "fake"} for name in self.models]
        return web.json_response({"object": "list", "data": data})

    @contextlib.asynccontextmanager
    async def _busy(self) -> Any:
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await asyncio.sleep(self.delay_s)
            yield
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1

    async def _paint(self, request: web.Request) -> web.Response:
        asked = await request.json()
        self.pictures.append(asked)
        async with self._busy():
            if self.status != 200:
                return self._refusal()
            width, _, height = asked.get("size", "8x8").partition("x")
            data = self.picture(int(width), int(height))
            encoded = base64.b64encode(data).decode()
            items = [{"b64_json": encoded} for _ in range(asked.get("n", 1))]
            return web.json_response({"created": 1700000000, "data": items})

    async def _listen(self, request: web.Request) -> web.StreamResponse:
        heard = Heard(request.path)
        digest = hashlib.sha256()
        async for part in await request.multipart():
            if part.filename is None:
                heard.fields[part.name or ""] = (await part.read()).decode()
                continue
            heard.filename = part.filename
            while data := await part.read_chunk(65536):
                heard.size += len(data)
                digest.update(data)
        heard.sha256 = digest.hexdigest()
        self.heard.append(heard)
        async with self._busy():
            if self.status != 200:
                return self._refusal()
            text = f"{heard.size} bytes of {heard.filename}"
            if heard.fields.get("stream") == "true":
                return await self._say(request, text)
            if heard.fields.get("response_format") in ("text", "srt", "vtt"):
                return web.Response(text=f"{text}\n")
            return web.json_response({"text": text})

    async def _say(self, request: web.Request, text: str) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for word in text.split():
            event = {"type": "transcript.text.delta", "delta": f"{word} "}
            await response.write(f"data: {json.dumps(event)}\n\n".encode())
        if not self.breaks_off:
            event = {"type": "transcript.text.done", "text": text}
            await response.write(f"data: {json.dumps(event)}\n\n".encode())
        await response.write_eof()
        return response

    def _refusal(self) -> web.Response:
        error = {"message": "the fake refuses", "type": "fake", "param": None, "code": None}
        return web.json_response({"error": error}, status=self.status)
