"""Sews the stream of a second engine to what the client has got from the first.

The client sees one answer: ids, time and model of the first frame go on, nothing is opened twice,
text that the engine repeats is left out, and the counts at the end cover both parts. An engine may
begin with the text it was given (llama.cpp does in some forms) or say it all again (a template
that closes the assistant's turn): both are looked for, neither is assumed.
"""

from typing import Any, Final, Protocol

import msgspec

from ollama_herd.api.continuation import Continuation, Fields, Said
from ollama_herd.api.endpoints import Endpoint
from ollama_herd.api.framing import BARE_TEXT, FrameTooLargeError, LineSplitter, SseSplitter
from ollama_herd.api.gojson import escape_html
from ollama_herd.core.request import Dialect

ECHO_CHARS: Final = 8
"""A shorter text so far cannot be told from a model that says the same word twice."""


class Seam(Protocol):
    """One further stream. `failed` is why it is of no use, `is_done` that it is whole."""

    failed: str
    is_done: bool

    def feed(self, data: bytes) -> bytes:
        """Bytes for the client from bytes of the engine, split anywhere. Never raises."""

    def said(self) -> Said:
        """All that the client has got by now, both parts."""

    def counts(self, prompt: object, output: object) -> tuple[int, int] | None:
        """Tokens of the whole, from what the last engine counted; None when that says it all."""


def seam(endpoint: Endpoint, how: Continuation, said: Said, first_part_s: float) -> Seam:
    """For the client of `endpoint`, which has got `said` in `first_part_s` seconds."""
    if endpoint.dialect is Dialect.OLLAMA:
        return _LineSeam(endpoint, how, said, first_part_s)
    if endpoint.dialect is Dialect.ANTHROPIC:
        return _MessageSeam(endpoint, how, said, first_part_s)
    return _ChunkSeam(endpoint, how, said, first_part_s)


class _Echo:
    """Takes away the repetition of `text`, if there is one."""

    def __init__(self, said: Said) -> None:
        self._text = said.text
        self._is_over = len(said.text) < ECHO_CHARS or said.pieces < 2
        self._held = ""
        self.swallowed = 0

    def feed(self, text: str) -> str:
        if self._is_over:
            return text
        before, self._held = self._held, self._held + text
        if len(self._held) < len(self._text) and self._text.startswith(self._held):
            self.swallowed += 1
            return ""
        self._is_over = True
        if self._held.startswith(self._text):
            self.swallowed += bool(before)
            return self._held[len(self._text) :]
        self.swallowed = 0
        return self._held

    def flush(self) -> str:
        """What was held because it could have become a repetition."""
        held = "" if self._is_over else self._held
        self._is_over = True
        if held:
            self.swallowed = 0
        return held


class _Sewing:
    """What the dialects have in common."""

    def __init__(
        self, endpoint: Endpoint, how: Continuation, said: Said, first_part_s: float
    ) -> None:
        self.failed = ""
        self.is_done = False
        self._endpoint = endpoint
        self._before = said
        self._first_part_ns = int(first_part_s * 1e9)
        self._is_replay = how.is_replay
        self._echo = _Echo(said)
        self._new: list[str] = []
        self._opening: Fields = said.opening
        self._is_plain = True
        self._is_first = not said.opening  # the client has not got a frame yet

    def said(self) -> Said:
        before = self._before
        return msgspec.structs.replace(
            before,
            text=before.text + "".join(self._new),
            pieces=before.pieces + len(self._new),
            opening=self._opening,
            is_plain=before.is_plain and self._is_plain,
        )

    def _say(self, text: str) -> str:
        """The part of `text` that is new to the client."""
        new = self._echo.feed(text)
        if new:
            self._new.append(new)
        return new

    def _rest(self) -> str:
        rest = self._echo.flush()
        if rest:
            self._new.append(rest)
        return rest

    def _more_than_text(self) -> None:
        self._is_plain = False
        if not self._is_replay:
            self.failed = "the engine went on with something else than text"

    def counts(self, prompt: object, output: object) -> tuple[int, int] | None:
        """Prompt and output tokens of the whole: what was said is prompt to the engine."""
        if not isinstance(prompt, int) or not isinstance(output, int) or self._is_replay:
            return None
        before = self._before.pieces
        return max(1, prompt - before), output + before - min(self._echo.swallowed, output)

    def _decoded(self, data: bytes) -> Fields | None:
        try:
            value = msgspec.json.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            value = None
        if not isinstance(value, dict):
            self.failed = "the engine's stream cannot be read"
            return None
        error = value.get("error")
        if error is not None or value.get("type") == "error":
            self.failed = "the engine reported an error in its stream"
            return None
        return value


class _LineSeam(_Sewing):
    """/api/chat and /api/generate, the latter perhaps from lines of the former."""

    def __init__(
        self, endpoint: Endpoint, how: Continuation, said: Said, first_part_s: float
    ) -> None:
        super().__init__(endpoint, how, said, first_part_s)
        self._splitter = LineSplitter()
        self._is_prompt = endpoint.path == "/api/generate"

    def feed(self, data: bytes) -> bytes:
        output = []
        try:
            lines = self._splitter.feed(data)
        except FrameTooLargeError:
            self.failed = "the engine's stream cannot be read"
            return b""
        for line in lines:
            if self.failed or self.is_done:
                break
            value = self._decoded(line)
            if value is not None:
                output.append(self._line(value))
        return b"".join(output)

    def _line(self, line: Fields) -> bytes:
        message = line.get("message")
        holder: Fields = message if isinstance(message, dict) else line
        text = holder.get("content" if holder is message else "response")
        if holder.get("thinking") or holder.get("tool_calls"):
            self._more_than_text()
            if self.failed:
                return b""
        self._opening = self._opening or line
        is_last = line.get("done") is True
        is_more = any(holder.get(key) for key in ("thinking", "tool_calls"))
        new = self._say(text) if isinstance(text, str) and text else ""
        if not is_last:
            return self._written(line, holder, new) if new or is_more else b""
        self.is_done = True
        rest = self._rest()
        before = self._written({**line, "done": False}, holder, rest, _STATS) if rest else b""
        return before + self._written(self._summed(line), holder, new)

    def _written(
        self, line: Fields, holder: Fields, text: str, without: frozenset[str] = frozenset()
    ) -> bytes:
        """The line with another text, in the form of the client's endpoint."""
        out: Fields = {}
        for key, value in line.items():
            if key in without:
                continue
            if key == "message" and self._is_prompt:
                out["response"] = text
                out.update({k: v for k, v in holder.items() if k not in ("role", "content")})
            elif key == "message":
                out[key] = {**holder, "content": text}
            elif key == "response":
                out[key] = text
            else:
                out[key] = value
        if "model" in self._before.opening:
            out["model"] = self._before.opening["model"]
        return escape_html(msgspec.json.encode(out)) + b"\n"

    def _summed(self, line: Fields) -> Fields:
        """The last line, its counts and durations those of both parts."""
        line = {key: value for key, value in line.items() if key != "context"}
        counts = self.counts(line.get("prompt_eval_count"), line.get("eval_count"))
        if counts is not None:
            line["prompt_eval_count"], line["eval_count"] = counts
            for key in ("total_duration", "eval_duration"):
                if isinstance(line.get(key), int):
                    line[key] += self._first_part_ns
        return line


_STATS = frozenset(
    {
        "done_reason",
        "context",
        "total_duration",
        "load_duration",
        "prompt_eval_count",
        "prompt_eval_duration",
        "eval_count",
        "eval_duration",
    }
)


class _EventSewing(_Sewing):
    def __init__(
        self, endpoint: Endpoint, how: Continuation, said: Said, first_part_s: float
    ) -> None:
        super().__init__(endpoint, how, said, first_part_s)
        self._splitter = SseSplitter()

    def feed(self, data: bytes) -> bytes:
        output = []
        try:
            events = self._splitter.feed(data)
        except FrameTooLargeError:
            self.failed = "the engine's stream cannot be read"
            return b""
        for name, value in events:
            if self.failed or self.is_done:
                break
            if name == BARE_TEXT:
                self.failed = "the engine reported an error in its stream"
                break
            output.append(self._event(value))
        return b"".join(output)

    def _event(self, data: bytes) -> bytes:
        raise NotImplementedError


class _ChunkSeam(_EventSewing):
    """/v1/chat/completions and /v1/completions, the latter perhaps from chunks of the former."""

    def _event(self, data: bytes) -> bytes:
        if data == b"[DONE]":
            self.is_done = True
            return b"data: [DONE]\n\n"
        chunk = self._decoded(data)
        if chunk is None:
            return b""
        if chunk.get("model") == "":
            self.failed = "the engine lost its model"  # Ollama's last chunk when its runner died
            return b""
        if not self._opening:
            self._opening = chunk
        usage = chunk.get("usage")
        if isinstance(usage, dict):
            chunk["usage"] = self._summed(usage)
        for key in _ENVELOPE & self._opening.keys():
            chunk[key] = self._opening[key]
        choices = chunk.get("choices")
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            return b"" if not chunk.get("usage") else _data(chunk)
        return self._choice(chunk, choices[0])

    def _choice(self, chunk: Fields, choice: Fields) -> bytes:
        delta = choice.get("delta")
        holder: Fields = delta if isinstance(delta, dict) else choice
        key = "content" if holder is delta else "text"
        text, finish = holder.get(key), choice.get("finish_reason")
        is_more = any(holder.get(k) for k in ("reasoning", "reasoning_content", "tool_calls"))
        if is_more:
            self._more_than_text()
            if self.failed:
                return b""
        new = self._say(text) if isinstance(text, str) and text else ""
        rest = self._rest() if finish else ""
        before = _data(self._with(chunk, choice, rest + new, None)) if rest else b""
        if rest:
            new = ""
        if not (new or finish or is_more or (self._is_first and "role" in holder)):
            return b""
        return before + _data(self._with(chunk, choice, new, finish))

    def _with(self, chunk: Fields, choice: Fields, text: str, finish: object) -> Fields:
        """The chunk with another text, without the role, in the form of the client's endpoint."""
        delta = choice.get("delta")
        out = {**choice, "finish_reason": finish}
        if not isinstance(delta, dict):
            out["text"] = text
        elif self._endpoint.path == "/v1/completions":
            del out["delta"]
            out = {"text": text, **out}
        else:
            role = {k: delta[k] for k in ("role",) if k in delta and self._is_first}
            rest = {k: v for k, v in delta.items() if k not in ("role", "content")}
            out["delta"] = {**role, **({"content": text} if text else {}), **rest}
        return {**chunk, "choices": [out]}

    def _summed(self, usage: Fields) -> Fields:
        counts = self.counts(usage.get("prompt_tokens"), usage.get("completion_tokens"))
        if counts is None or not usage.get("prompt_tokens"):
            return usage
        prompt, output = counts
        total = {"prompt_tokens": prompt, "completion_tokens": output}
        return {**usage, **total, "total_tokens": prompt + output}


_ENVELOPE = frozenset({"id", "object", "created", "model", "system_fingerprint"})


class _MessageSeam(_EventSewing):
    """/v1/messages: one text block goes on."""

    def _event(self, data: bytes) -> bytes:
        event = self._decoded(data)
        if event is None:
            return b""
        match event.get("type"):
            case "message_start":
                is_known, self._opening = bool(self._opening), self._opening or event
                return b"" if is_known else _named(event)
            case "content_block_start":
                block = event.get("content_block")
                if not isinstance(block, dict) or block.get("type") != "text":
                    self._more_than_text()
                return b"" if self._before.is_open or self.failed else _named(event)
            case "content_block_delta":
                return self._delta(event)
            case "content_block_stop":
                rest = self._rest()
                last = {"type": "text_delta", "text": rest}
                index = event.get("index", 0)
                opened = {"type": "content_block_delta", "index": index, "delta": last}
                return (_named(opened) if rest else b"") + _named(event)
            case "message_delta":
                usage = event.get("usage")
                if isinstance(usage, dict):
                    event["usage"] = self._summed(usage)
            case "message_stop":
                self.is_done = True
        return _named(event)

    def _delta(self, event: Fields) -> bytes:
        delta = event.get("delta")
        text = delta.get("text") if isinstance(delta, dict) else None
        if not isinstance(text, str):
            self._more_than_text()
            return b"" if self.failed else _named(event)
        new = self._say(text)
        return _named({**event, "delta": {**event["delta"], "text": new}}) if new else b""

    def _summed(self, usage: Fields) -> Fields:
        if self._is_replay:
            return usage
        before = self._before.pieces
        summed = dict(usage)
        output, prompt = usage.get("output_tokens"), usage.get("input_tokens")
        if isinstance(output, int):
            summed["output_tokens"] = output + before - min(self._echo.swallowed, output)
        if isinstance(prompt, int) and prompt > before:
            summed["input_tokens"] = prompt - before
        return summed


def _data(value: Any) -> bytes:
    return b"data: " + escape_html(msgspec.json.encode(value)) + b"\n\n"


def _named(event: Fields) -> bytes:
    return b"event: " + str(event.get("type", "")).encode() + b"\n" + _data(event)
