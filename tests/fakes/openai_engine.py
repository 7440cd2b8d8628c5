"""A fake of llama.cpp's server as it was before it learned Anthropic's dialect: OpenAI routes
only, one model, a role chunk at once.

Everything under `/api/` and every wrong method is 404; the `model` of a request is ignored.
Settings, counters, scripts and faults are those of the fake Ollama.
"""

import asyncio
from collections.abc import Iterable
from typing import Any

from ollama_herd import clock
from tests.fakes.checks import RefusedError
from tests.fakes.generation import begun_answer, prompt_of
from tests.fakes.gojson import GoJsonError, decode_object, dumps
from tests.fakes.models import model
from tests.fakes.ollama import FakeOllama
from tests.fakes.state import BEFORE_FIRST_BYTE, Fault, FaultRule, Settings
from tests.fakes.turn import Token, Turn, compose
from tests.fakes.wire import JSON_UTF8, HttpServer, Reply, Request

_HEADERS = {"Server": "llama.cpp", "Access-Control-Allow-Origin": ""}
_NOT_FOUND = {"error": {"message": "File Not Found", "type": "not_found_error", "code": 404}}
_NO_EMBEDDINGS = {
    "error": {
        "code": 501,
        "message": "This server does not support embeddings. Start it with `--embeddings`",
        "type": "not_supported_error",
    }
}


class FakeOpenAI(FakeOllama):
    """One llama.cpp server with one model."""

    def __init__(
        self,
        name: str = "smollm2-135m",
        settings: Settings | None = None,
        *,
        embeds: bool = False,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        super().__init__([model(name)], settings, host=host, port=port)
        self.name = name
        self._embeds = embeds
        self.refuses: RefusedError | None = None
        """What it says to every chat and completion: that the request is wrong."""
        self.server = HttpServer(
            self._answer, headers=dict(_HEADERS), sends_date=False, host=host, port=port
        )

    async def _answer(self, request: Request, reply: Reply) -> None:
        entry = (request.method, request.target, request.headers, request.body)
        self.state.requests.append(entry)
        match (request.method, request.path):
            case ("GET", "/health" | "/v1/health"):
                await reply.send(200, dumps({"status": "ok"}))
            case ("GET", "/v1/models" | "/models"):
                await reply.send(200, dumps(self._models()))
            case ("GET", "/props"):
                props = {"total_slots": self.settings.num_parallel, "model_alias": self.name}
                await reply.send(200, dumps(props))
            case ("POST", "/v1/chat/completions" | "/v1/completions"):
                await self._counted(request, reply)
            case ("POST", "/v1/embeddings") if self._embeds:
                await self._embed(request, reply)
            case ("POST", "/v1/embeddings"):
                await reply.send(501, dumps(_NO_EMBEDDINGS))
            case _:
                await reply.send(404, dumps(_NOT_FOUND))

    def _models(self) -> dict[str, Any]:
        meta = {"n_ctx": 2048, "n_ctx_train": 8192, "n_embd": 576, "size": 98000000}
        entry = {"id": self.name, "object": "model", "owned_by": "llamacpp", "meta": meta}
        listed = {"name": self.name, "model": self.name, "capabilities": ["completion"]}
        return {"models": [listed], "object": "list", "data": [{**entry, "created": 1795343319}]}

    async def _counted(self, request: Request, reply: Reply) -> None:
        counters = self.counters
        counters.received += 1
        counters.by_path[request.path] += 1
        self.state.changed()
        rule = self.state.take_fault(request.path, is_inference=True)
        try:
            await self._generate(request, reply, rule)
        except RefusedError as refused:
            counters.failed += 1
            kind = "invalid_request_error" if refused.status == 400 else "server_error"
            error = {"code": refused.status, "message": refused.message, "type": kind}
            await reply.send(refused.status, dumps({"error": error}))
        except asyncio.CancelledError:
            counters.cancelled += 1
            counters.last_cancelled_s = clock.monotonic_s()
            raise
        finally:
            self.state.changed()

    async def _generate(self, request: Request, reply: Reply, rule: FaultRule | None) -> None:
        if rule is not None and rule.fault in BEFORE_FIRST_BYTE:
            await _fail(rule.fault, reply)
            return
        if self.refuses is not None:
            raise self.refuses
        is_chat = request.path == "/v1/chat/completions"
        asked = _read(request)
        if is_chat and not isinstance(asked.get("messages"), list):
            raise RefusedError(400, "'messages' is required")
        only = next(iter(self.models.values()))
        is_raw = {"raw": not is_chat}
        prompt, begun = begun_answer({**asked, **is_raw}, prompt_of(asked))
        turn = compose(
            {**asked, "model": self.name},
            only,
            prompt=prompt,
            max_tokens=asked.get("max_tokens"),
            is_thinking=False,
            script=self.state.scripts.get(""),
            settings=self.settings,
            begun=begun,
        )
        async with self.runners.slot(only, {}, None) as (_, load_s):
            turn.load_s, turn.begun_s = load_s, clock.monotonic_s()
            await _Speech(self, turn, is_chat=is_chat).say(reply, rule)
        self.counters.finished += 1

    async def _embed(self, request: Request, reply: Reply) -> None:
        texts = _read(request).get("input", [])
        texts = [texts] if isinstance(texts, str) else texts
        vector = [round((i % 7) / 8 + 0.01, 4) for i in range(16)]
        usage = {"prompt_tokens": 2 * len(texts), "total_tokens": 2 * len(texts)}
        data = [{"embedding": vector, "index": i, "object": "embedding"} for i in range(len(texts))]
        body = {"model": self.name, "object": "list", "usage": usage, "data": data}
        await reply.send(200, dumps(body))


class _Speech:
    """One answer in llama.cpp's key order."""

    def __init__(self, engine: FakeOpenAI, turn: Turn, *, is_chat: bool) -> None:
        self._engine = engine
        self._turn = turn
        self._is_chat = is_chat

    async def say(self, reply: Reply, rule: FaultRule | None) -> None:
        if not self._turn.asked.get("stream"):
            for i, token in enumerate(self._turn.tokens):
                await self._tick(i, token)
            await reply.send(200, dumps(self._whole()), JSON_UTF8)
            return
        reply.begin(200, "text/event-stream", {"X-Accel-Buffering": "no"})
        await reply.piece(b"")  # the head leaves at once, the first event with the first token
        opening = b""
        if self._is_chat:
            opening = self._event({"delta": {"role": "assistant", "content": None}}, None)
        for i, token in enumerate(self._turn.tokens):
            if rule is not None and i == rule.after_tokens:
                await self._break(reply, rule.fault)
                return
            await self._tick(i, token)
            said = {"delta": {"content": token.text}} if self._is_chat else {"text": token.text}
            await reply.chunk(opening + self._event(said, None))
            opening = b""
        for data in self._ending():
            await reply.chunk(data)
        await reply.end()
        reply.close()  # as the real one does behind a stream, without having said so

    async def _tick(self, index: int, token: Token) -> None:
        settings = self._engine.settings
        await asyncio.sleep((settings.token_ms + (0 if index else settings.prefill_ms)) / 1000)
        if index == 0:
            self._turn.first_s = clock.monotonic_s()
        self._turn.said.append(token)
        self._engine.counters.tokens += 1
        self._engine.state.changed()

    async def _break(self, reply: Reply, fault: Fault) -> None:
        if fault is Fault.STALL_MID_STREAM:
            await asyncio.Event().wait()
        elif fault is Fault.CUT_MID_STREAM:
            reply.close()
        else:
            if fault is Fault.ERROR_MID_STREAM:
                await reply.chunk(b"proxy error: Failed to read connection")
            await reply.end()

    def _ending(self) -> Iterable[bytes]:
        last: dict[str, Any] = {"delta": {}} if self._is_chat else {"text": ""}
        usage = {"usage": self._usage(), "timings": self._timings()}
        options = self._turn.asked.get("stream_options") or {}
        finish = self._turn.done_reason
        if not self._is_chat:
            yield self._event(last, finish, usage)
        elif options.get("include_usage"):
            counts = dumps({"choices": [], **self._envelope(".chunk"), **usage})
            yield self._event(last, finish) + b"data: " + counts + b"\n\n"
        else:
            yield self._event(last, finish, {"timings": self._timings()})
        yield b"data: [DONE]\n\n"

    def _event(
        self, said: dict[str, Any], finish: str | None, more: dict[str, Any] | None = None
    ) -> bytes:
        choice: dict[str, Any] = {"finish_reason": finish, "index": 0, **said}
        if not self._is_chat:
            choice = {**said, "index": 0, "logprobs": None, "finish_reason": finish}
        body = {"choices": [choice], **self._envelope(".chunk"), **(more or {})}
        return b"data: " + dumps(body) + b"\n\n"

    def _whole(self) -> dict[str, Any]:
        finish, text = self._turn.done_reason, self._turn.text()
        message = {"role": "assistant", "content": text}
        choice: dict[str, Any] = {"finish_reason": finish, "index": 0, "message": message}
        if not self._is_chat:
            choice = {"text": text, "index": 0, "logprobs": None, "finish_reason": finish}
        envelope = self._envelope("")
        answer_id = envelope.pop("id")
        tail = {"usage": self._usage(), "id": answer_id, "timings": self._timings()}
        return {"choices": [choice], **envelope, **tail}

    def _envelope(self, suffix: str) -> dict[str, Any]:
        kind = f"chat.completion{suffix}" if self._is_chat else "text_completion"
        return {
            "created": int(self._turn.now_s()),
            "id": f"chatcmpl-{self._turn.number(1 << 60):032x}",
            "model": self._engine.name,
            "system_fingerprint": "b0-unknown",
            "object": kind,
        }

    def _usage(self) -> dict[str, Any]:
        said, prompt = len(self._turn.said), self._turn.prompt_tokens
        return {
            "completion_tokens": said,
            "prompt_tokens": prompt,
            "total_tokens": said + prompt,
            "prompt_tokens_details": {"cached_tokens": 0},
        }

    def _timings(self) -> dict[str, Any]:
        durations = self._turn.durations()
        prompt_ms = durations["prompt_eval_duration"] / 1e6
        said, said_ms = len(self._turn.said), durations["eval_duration"] / 1e6
        return {
            "cache_n": 0,
            "prompt_n": self._turn.prompt_tokens,
            "prompt_ms": prompt_ms,
            "prompt_per_second": 1000 * self._turn.prompt_tokens / prompt_ms,
            "predicted_n": said,
            "predicted_ms": said_ms,
            "predicted_per_second": 1000 * said / said_ms,
        }


def _read(request: Request) -> dict[str, Any]:
    try:
        return decode_object(request.body)
    except GoJsonError as error:
        raise RefusedError(400, f"[json.exception.parse_error.101] {error}") from None


async def _fail(fault: Fault, reply: Reply) -> None:
    match fault:
        case Fault.ERROR_500:
            raise RefusedError(500, "proxy error: Could not establish connection")
        case Fault.BUSY_503:
            raise RefusedError(503, "Loading model")
        case Fault.CLOSE | Fault.RESET:
            reply.close(reset=fault is Fault.RESET)
        case Fault.HALF_HEADER:
            await reply.raw(b"HTTP/1.1 200 OK\r\nServer: llam")
        case Fault.GARBAGE:
            await reply.raw(b"\x00\x16\xffSSH-2.0-garbage\r\n\r\n")
        case Fault.WEB_PAGE:
            await reply.send(200, b"<html><body>Welcome</body></html>", "text/html")
        case Fault.EMPTY:
            await reply.send(200, b"", "application/json")
        case _:
            await asyncio.Event().wait()
