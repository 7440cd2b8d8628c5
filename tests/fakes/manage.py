"""A fake Ollama that also pulls, pushes, creates and takes uploads, in the words of the real one.

What it can pull is `registry`; nothing leaves the process.
"""

import asyncio
import hashlib
import json
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from tests.fakes import checks
from tests.fakes.checks import RefusedError
from tests.fakes.gojson import dumps
from tests.fakes.models import FakeModel, model
from tests.fakes.ollama import FakeOllama
from tests.fakes.recordings import Recording
from tests.fakes.replay import parse_response
from tests.fakes.wire import Reply, Request

PATHS = ("/api/pull", "/api/push", "/api/create", "/api/copy", "/api/delete", "/api/show")
NDJSON = "application/x-ndjson"


@dataclass
class Pace:
    """How a pull goes: `steps` lines a layer, `step_ms` apart; `error` ends it after the layers.

    `held_at` stops it for good after so many steps.
    """

    steps: int = 4
    step_ms: float = 0.0
    error: str = ""
    held_at: int | None = None


class ManagedOllama(FakeOllama):
    """`calls` counts `pull`, `pull cancelled`, `pull done`, …; `blobs` are uploads by digest."""

    def __init__(
        self,
        models: Iterable[FakeModel] | None = None,
        *,
        registry: Iterable[FakeModel] = (),
        **more: Any,
    ) -> None:
        super().__init__(models, **more)
        self.registry = {m.key: m for m in registry}
        self.blobs: dict[str, int] = {}
        self.pace = Pace()
        self.calls: Counter[str] = Counter()
        self.refuses: dict[str, tuple[int, str]] = {}
        """By path: a status and an error instead of doing anything."""
        self._recorded: deque[bytes] = deque()

    def say(self, recording: Recording) -> None:
        """The next call of a path here gets this recorded response, byte by byte."""
        self._recorded.append(recording.response)

    def stock(self, models: Iterable[FakeModel]) -> None:
        """These models and no others, from any thread."""

        async def change() -> None:
            self.models.clear()
            self.models.update({m.key: m for m in models})

        self._call(change())

    def forget_recorded(self) -> None:
        """Recorded responses that nobody asked for."""
        self._recorded.clear()

    async def _answer(self, request: Request, reply: Reply) -> None:
        is_blob = request.path.startswith("/api/blobs/")
        if not is_blob and request.path not in PATHS:
            await super()._answer(request, reply)
            return
        if self._recorded:
            self.state.requests.append(
                (request.method, request.target, request.headers, request.body)
            )
            recorded = self._recorded.popleft()
            await reply.piece(recorded)
            if not parse_response(recorded, request.method).is_whole:  # its client left it
                await self._left_alone(request.path.rpartition("/")[2])
            return
        if request.path in self.refuses:
            status, error = self.refuses[request.path]
            await reply.send(status, dumps({"error": error}))
            return
        if request.path in ("/api/copy", "/api/delete", "/api/show"):
            self._count(request.path.rpartition("/")[2])
            await super()._answer(request, reply)
            return
        self.state.requests.append((request.method, request.target, request.headers, request.body))
        if is_blob:
            await self._blob(request, reply)
            return
        name = request.path.rpartition("/")[2]
        self._count(name)
        try:
            await getattr(self, f"_{name}")(request, reply)
        except asyncio.CancelledError:
            self._count(f"{name} cancelled")
            raise
        except RefusedError as refused:
            await reply.send(refused.status, dumps({"error": refused.message}))
        else:
            self._count(f"{name} done")

    async def _left_alone(self, name: str) -> None:
        """Under way until the client leaves."""
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self._count(f"{name} cancelled")
            raise

    def _count(self, what: str) -> None:
        self.calls[what] += 1
        self.state.changed()

    async def _pull(self, request: Request, reply: Reply) -> None:
        asked = checks.read_body(request, request.path)
        wanted = model(str(asked.get("model") or asked.get("name") or ""))
        found = self.registry.get(wanted.key)
        say = _Progress(reply, is_stream=asked.get("stream") is not False)
        await say({"status": "pulling manifest"})
        if found is None:
            await say.fail("pull model manifest: file does not exist")
            return
        if not await self._layers(found, say):
            return
        for status in ("verifying sha256 digest", "writing manifest"):
            await say({"status": status})
        self.models[found.key] = found
        await say.succeed()

    async def _layers(self, found: FakeModel, say: "_Progress") -> bool:
        layer = {
            "status": f"pulling {found.weights[7:19]}",
            "digest": found.weights,
            "total": found.size_bytes,
        }
        await say(layer)
        for step in range(1, self.pace.steps + 1):
            if self.pace.held_at is not None and step > self.pace.held_at:
                self._count("held")
                await asyncio.Event().wait()
            await asyncio.sleep(self.pace.step_ms / 1000)
            await say({**layer, "completed": found.size_bytes * step // self.pace.steps})
        if self.pace.error:
            await say.fail(self.pace.error)
        return not self.pace.error

    async def _push(self, request: Request, reply: Reply) -> None:
        asked = checks.read_body(request, request.path)
        say = _Progress(reply, is_stream=asked.get("stream") is not False)
        await say({"status": "retrieving manifest"})
        if model(str(asked.get("model"))).key not in self.models:
            await say({"status": "couldn't retrieve manifest"})
            await say.fail("open /srv/models/manifests/nope: no such file or directory")
            return
        await say.succeed()

    async def _create(self, request: Request, reply: Reply) -> None:
        asked = checks.read_body(request, request.path)
        made = model(str(asked.get("model") or asked.get("name") or ""))
        say = _Progress(reply, is_stream=asked.get("stream") is not False)
        source = self.models.get(model(str(asked.get("from", ""))).key)
        files = [*(asked.get("files") or {}).values(), *(asked.get("adapters") or {}).values()]
        if source is None and not files:
            raise RefusedError(400, "neither 'from' or 'files' was specified")
        missing = [digest for digest in files if digest not in self.blobs]
        if missing:
            path = f"/srv/models/blobs/{missing[0].replace(':', '-')}"
            await say({"status": "parsing GGUF"})
            await say.fail(f"open {path}: no such file or directory", 400)
            return
        weights = source.weights if source else files[0]
        await say({"status": f"using existing layer {weights}"})
        await say({"status": "writing manifest"})
        self.models[made.key] = replace(source or made, name=made.name, digest=made.digest)
        await say.succeed()

    async def _blob(self, request: Request, reply: Reply) -> None:
        digest = request.path.rpartition("/")[2]
        if request.method == "HEAD":
            await reply.send(200 if digest in self.blobs else 404, content_type="")
            return
        if request.is_cut:
            self._count("upload cut")
            return
        got = f"sha256:{hashlib.sha256(request.body).hexdigest()}"
        if digest in self.blobs:
            await reply.send(200, content_type="")
        elif got != digest:
            text = f'digest mismatch, expected "{digest}", got "{got}"'
            await reply.send(400, dumps({"error": text}))
        else:
            self.blobs[digest] = len(request.body)
            await reply.send(201, content_type="")
        self._count("upload")


class _Progress:
    """Lines as they come, or one answer at the end."""

    def __init__(self, reply: Reply, *, is_stream: bool) -> None:
        self._reply = reply
        self._is_stream = is_stream

    async def __call__(self, line: dict[str, Any]) -> None:
        if not self._is_stream:
            return
        if not self._reply.has_begun:
            self._reply.begin(200, NDJSON)
        await self._reply.chunk(json.dumps(line, separators=(",", ":")).encode() + b"\n")

    async def fail(self, error: str, status: int = 500) -> None:
        if self._is_stream:
            await self({"error": error})
            await self._reply.end()
        else:
            await self._reply.send(status, dumps({"error": error}), "application/json")

    async def succeed(self) -> None:
        if self._is_stream:
            await self({"status": "success"})
            await self._reply.end()
        else:
            await self._reply.send(200, dumps({"status": "success"}), "application/json")
