"""How a fake Ollama generates: chat, generate and embed in every dialect, faults included."""

import asyncio
import base64
import hashlib
import struct
from collections.abc import Mapping
from typing import Any

from ollama_herd import clock
from tests.fakes import checks
from tests.fakes.broken import NO_CHUNK, break_whole
from tests.fakes.checks import RefusedError
from tests.fakes.dialects import (
    RUNNER_DIED,
    AnthropicVoice,
    OllamaVoice,
    OpenAIChatVoice,
    OpenAICompletionVoice,
    Voice,
)
from tests.fakes.gojson import dumps
from tests.fakes.models import FakeModel
from tests.fakes.responses import ResponsesVoice
from tests.fakes.runners import QueueFullError, Runners
from tests.fakes.state import BEFORE_FIRST_BYTE, Fault, FaultRule, State
from tests.fakes.turn import Turn, compose
from tests.fakes.wire import JSON_UTF8, Reply, Request

CHAT_PATHS = frozenset({"/api/chat", "/v1/chat/completions", "/v1/messages"})
GENERATE_PATHS = frozenset({"/api/generate", "/v1/completions", "/v1/responses"})
EMBED_PATHS = frozenset({"/api/embed", "/api/embeddings", "/v1/embeddings"})
PATHS = CHAT_PATHS | GENERATE_PATHS | EMBED_PATHS

_LIMIT_FIELD = {"/v1/responses": "max_output_tokens"}


class Generation:
    """Answers inference requests from the models and runners of one fake."""

    def __init__(self, state: State, runners: Runners, models: Mapping[str, FakeModel]) -> None:
        self._state = state
        self._runners = runners
        self._models = models

    async def answer(self, request: Request, reply: Reply) -> None:
        """One inference request, to its end or its fault."""
        path, counters = request.path, self._state.counters
        counters.received += 1
        counters.by_path[path] += 1
        self._state.changed()
        rule = self._state.take_fault(path, is_inference=True)
        try:
            if rule is not None and rule.fault in BEFORE_FIRST_BYTE:
                await self._fail_first(rule, request, reply)
                return
            if path in EMBED_PATHS:
                await self._embed(request, reply, rule)
            else:
                await self._generate(request, reply, rule)
        except RefusedError as refused:
            counters.failed += 1
            status, content_type, body = checks.render(refused, path)
            await reply.send(status, body, content_type)
        except QueueFullError:
            counters.failed += 1
            await self._busy(request, reply)
        except asyncio.CancelledError:
            counters.cancelled += 1
            counters.last_cancelled_s = clock.monotonic_s()
            raise
        finally:
            self._state.changed()

    async def _generate(self, request: Request, reply: Reply, rule: FaultRule | None) -> None:
        path = request.path
        is_chat = path in CHAT_PATHS
        asked = checks.read_body(request, path)
        checks.check_v1(asked, path)
        model = checks.find(self._models, asked, path)
        checks.check_capabilities(model, asked, is_chat=is_chat)
        options = checks.check_options(asked)
        prompt = prompt_of(asked)
        keep_alive_s = checks.keep_alive_s(asked)
        self._state.counters.by_model[model.name] += 1
        if path.startswith("/api/") and not prompt:
            await self._load_only(asked, model, options, reply, is_chat=is_chat)
            return
        limit = asked.get(_LIMIT_FIELD.get(path, "max_tokens"))
        prompt, begun = begun_answer(asked, prompt)
        turn = compose(
            asked,
            model,
            prompt=prompt,
            max_tokens=options.get("num_predict", limit),
            is_thinking=_thinks(model, asked),
            script=self._state.scripts.get(model.key) or self._state.scripts.get(""),
            settings=self._state.settings,
            begun=begun,
        )
        async with self._runners.slot(model, options, keep_alive_s) as (_, load_s):
            turn.load_s, turn.begun_s = load_s, clock.monotonic_s()
            checks.check_format(asked)
            await asyncio.sleep(self._state.settings.prefill_ms / 1000)
            voice = _voice(path)
            if asked.get("stream", path.startswith("/api/")):
                await self._stream(turn, voice, reply, rule)
            else:
                await self._whole(turn, voice, reply, rule)
        self._state.counters.finished += 1

    async def _load_only(
        self,
        asked: dict[str, Any],
        model: FakeModel,
        options: dict[str, Any],
        reply: Reply,
        *,
        is_chat: bool,
    ) -> None:
        keep_alive_s = checks.keep_alive_s(asked)
        turn = compose(
            asked,
            model,
            prompt="",
            max_tokens=0,
            is_thinking=False,
            script=None,
            settings=self._state.settings,
        )
        if keep_alive_s == 0:
            self._runners.unload(model)
            reason = "unload"
        else:
            await self._runners.load(model, options, keep_alive_s)
            reason = "load"
        self._state.counters.finished += 1
        await reply.send(200, OllamaVoice(is_chat=is_chat).state(turn, reason))

    async def _stream(self, turn: Turn, voice: Voice, reply: Reply, rule: FaultRule | None) -> None:
        stop_at = rule.after_tokens if rule else -1
        for i, token in enumerate(turn.tokens):
            if i == stop_at:
                break
            await self._tick(turn, i)
            turn.said.append(token)
            for data in voice.token(turn, token):
                if not reply.has_begun:
                    reply.begin(200, voice.stream_type, voice.stream_headers)
                await reply.chunk(data)
        if not reply.has_begun:
            reply.begin(200, voice.stream_type, voice.stream_headers)
        if rule is not None:
            await self._break(turn, voice, reply, rule.fault)
            return
        for data in voice.ending(turn):
            await reply.chunk(data)
        await reply.end()

    async def _whole(self, turn: Turn, voice: Voice, reply: Reply, rule: FaultRule | None) -> None:
        for i, token in enumerate(turn.tokens):
            await self._tick(turn, i)
            turn.said.append(token)
        if rule is None:
            await reply.send(200, voice.whole(turn), voice.whole_type)
        elif rule.fault is Fault.ERROR_MID_STREAM:
            raise RefusedError(500, RUNNER_DIED)
        else:
            await break_whole(reply, rule.fault, voice.whole(turn), voice.whole_type)

    async def _tick(self, turn: Turn, index: int) -> None:
        await asyncio.sleep(self._state.settings.token_ms / 1000)
        if index == 0:
            turn.first_s = clock.monotonic_s()
        self._state.counters.tokens += 1
        self._state.changed()

    async def _break(self, turn: Turn, voice: Voice, reply: Reply, fault: Fault) -> None:
        self._state.changed()
        if fault is Fault.STALL_MID_STREAM:
            await asyncio.Event().wait()
        elif fault is Fault.CUT_MID_STREAM:
            reply.close()
        elif fault is Fault.GARBAGE_MID_STREAM:
            await reply.raw(NO_CHUNK)
        else:
            if fault is Fault.ERROR_MID_STREAM:
                for data in voice.died(turn):
                    await reply.chunk(data)
            await reply.end()

    async def _fail_first(self, rule: FaultRule, request: Request, reply: Reply) -> None:
        match rule.fault:
            case Fault.ERROR_500:
                raise RefusedError(500, "llama-server process has terminated: signal: killed")
            case Fault.BUSY_503:
                raise QueueFullError
            case Fault.CLOSE:
                reply.close()
            case Fault.RESET:
                reply.close(reset=True)
            case Fault.HALF_HEADER:
                await reply.raw(b"HTTP/1.1 200 OK\r\nContent-Type: applica")
            case Fault.GARBAGE:
                await reply.raw(b"\x00\x16\xffSSH-2.0-garbage\r\nnot http at all\r\n\r\n")
            case Fault.WEB_PAGE:
                await reply.send(200, b"<html><body>Welcome</body></html>", "text/html")
            case Fault.EMPTY:
                await reply.send(200, b"", "application/json")
            case _:
                await asyncio.Event().wait()
        self._state.counters.failed += 1

    async def _busy(self, request: Request, reply: Reply) -> None:
        refused = RefusedError(503, checks.QUEUE_FULL)
        status, content_type, body = checks.render(refused, request.path)
        await reply.send(status, body, content_type)

    async def _embed(self, request: Request, reply: Reply, rule: FaultRule | None) -> None:
        path = request.path
        asked = checks.read_body(request, path)
        texts = _inputs(asked, path)
        model = checks.find(self._models, asked, path)
        self._state.counters.by_model[model.name] += 1
        name = asked["model"]
        if not texts and path == "/api/embed":
            await reply.send(200, dumps({"model": name, "embeddings": []}))
            return
        options = checks.check_options(asked)
        async with self._runners.slot(model, options, checks.keep_alive_s(asked)) as (_, load_s):
            begun_s = clock.monotonic_s()
            if "embedding" not in model.capabilities:
                raise RefusedError(500 if path == "/api/embeddings" else 501, checks.NO_EMBEDDINGS)
            await asyncio.sleep(self._state.settings.prefill_ms / 1000)
            size = int(asked.get("dimensions") or model.embedding_length)
            vectors = [_vector(text, size) for text in texts]
            count = sum(max(1, len(text.split())) + 1 for text in texts)
            self._state.counters.tokens += count
            total_s = load_s + clock.monotonic_s() - begun_s
            durations = {
                "total_duration": int(total_s * 1e9) + 1,
                "load_duration": int(load_s * 1e9) + 1,
            }
            if self._state.settings.is_frozen:
                durations = {"total_duration": 106708398, "load_duration": 627659}
            durations["prompt_eval_count"] = count
            body, content_type = _embed_body(path, asked, vectors, durations)
            if rule is None:
                await reply.send(200, body, content_type)
            else:
                await break_whole(reply, rule.fault, body, content_type)
        self._state.counters.finished += 1


def prompt_of(asked: dict[str, Any]) -> str:
    """The text of the last message, the prompt or the input; "" when there is none."""
    messages = asked.get("messages")
    if isinstance(messages, list) and messages:
        last = messages[-1]
        content = last.get("content", "") if isinstance(last, dict) else ""
        return content if isinstance(content, str) and content else "…"
    for field in ("prompt", "input"):
        if isinstance(asked.get(field), str):
            return str(asked[field])
        if asked.get(field):
            return "…"
    return ""


def begun_answer(asked: dict[str, Any], prompt: str) -> tuple[str, str]:
    """The prompt, and the beginning of its answer where the request has one.

    A raw prompt may end with it: nothing marks where it begins.
    """
    messages = asked.get("messages")
    if isinstance(messages, list) and len(messages) > 1:
        last = messages[-1]
        if isinstance(last, dict) and last.get("role") == "assistant":
            return prompt_of({"messages": messages[:-1]}), str(last.get("content") or "")
    if asked.get("raw"):
        return prompt, prompt
    return prompt, ""


def _thinks(model: FakeModel, asked: dict[str, Any]) -> bool:
    """On by default for a model that can, but not between a prompt and its suffix."""
    can = "thinking" in model.capabilities and not asked.get("suffix")
    return can and asked.get("think") is not False


def _voice(path: str) -> Voice:
    match path:
        case "/v1/chat/completions":
            return OpenAIChatVoice()
        case "/v1/completions":
            return OpenAICompletionVoice()
        case "/v1/responses":
            return ResponsesVoice()
        case "/v1/messages":
            return AnthropicVoice()
        case _:
            return OllamaVoice(is_chat=path == "/api/chat")


def _inputs(asked: dict[str, Any], path: str) -> list[str]:
    value = asked.get("prompt" if path == "/api/embeddings" else "input")
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and all(isinstance(text, str) for text in value):
        return list(value)
    if value is None:
        return []
    raise RefusedError(400, "invalid input type")


def _vector(text: str, size: int) -> list[float]:
    """Numbers that depend on the text only, none in exponent notation."""
    seed = hashlib.sha256(text.encode()).digest()
    values: list[float] = []
    while len(values) < size:
        seed = hashlib.sha256(seed).digest()
        values += [round((n - 32768) / 70000, 6) or 0.5 for n in struct.unpack("<16H", seed)]
    return [value if abs(value) > 0.001 else 0.125 for value in values[:size]]


def _embed_body(
    path: str, asked: dict[str, Any], vectors: list[list[float]], durations: dict[str, int]
) -> tuple[bytes, str]:
    if path == "/api/embeddings":
        return dumps({"embedding": vectors[0] if vectors else []}), JSON_UTF8
    if path == "/api/embed":
        body = {"model": asked["model"], "embeddings": vectors, **durations}
        return dumps(body), JSON_UTF8
    is_base64 = asked.get("encoding_format") == "base64"
    data = [
        {"object": "embedding", "embedding": _base64(v) if is_base64 else v, "index": i}
        for i, v in enumerate(vectors)
    ]
    count = durations["prompt_eval_count"]
    usage = {"prompt_tokens": count, "total_tokens": count}
    body = {"object": "list", "data": data, "model": asked["model"], "usage": usage}
    return dumps(body) + b"\n", "application/json"


def _base64(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
