"""Answers of an OpenAI engine to chat, generate and messages, as Ollama would have given them.

One object lives for one attempt. It holds no clock: every call says what time it is (seconds
since 1970). Nothing an engine sends raises; what is no answer becomes an error for the client and
a `failed` outcome for the caller.

llama.cpp facts behind the rules: headers and a first chunk with only the role come at once, before
the prompt is read, so nothing goes to the client until there is text; `usage` and `timings` come
in a chunk behind the one with the finish reason; asked to continue an assistant's message, it may
repeat that message at the start of the answer, which is left as it is.
"""

from typing import Any

from ollama_herd.api.anthropic_events import EVENTS, MessageWriter, message_id
from ollama_herd.api.anthropic_events import JSON as PLAIN_JSON
from ollama_herd.api.errors import ApiError, render, stream_error
from ollama_herd.api.framing import BARE_TEXT, Event, FrameTooLargeError, SseSplitter
from ollama_herd.api.ollama_lines import (
    JSON,
    MAX_COUNT,
    NDJSON,
    LineWriter,
    Logprob,
    Metrics,
    Part,
    error_body,
    nanoseconds,
)
from ollama_herd.api.openai_chunks import (
    Choice,
    Counts,
    Message,
    Timings,
    read_chunk,
    read_logprobs,
)
from ollama_herd.api.translate_errors import (
    GARBAGE,
    TOO_LARGE,
    UNFINISHED,
    Failure,
    failed_event,
    failed_status,
    failed_text,
)
from ollama_herd.api.translate_request import EngineCall
from ollama_herd.api.translate_tools import ToolCallError, ToolCalls
from ollama_herd.api.translate_values import tolerant_json
from ollama_herd.core.request import Dialect, OutcomeKind, Usage

MAX_BODY_BYTES = 512 * 1024 * 1024
"""Largest answer that is held whole: 2,048 texts embedded in 8,192 dimensions are 350 MB."""

_BROKEN_OFF = frozenset({"abort", "error"})
"""Finish reasons of vLLM for an answer that it gave up."""

_BARE_ERRORS = (b"proxy error", b"error:")
"""How llama.cpp's router and older llama.cpp servers report an error inside a stream."""


class Reply:
    """What every translation of an answer does: holds a body, turns failures into errors.

    `status` and `content_type` are for the client and may change until the first bytes for it
    come out of `feed` or `end`; `failed` is None while all is well.
    """

    def __init__(self, call: EngineCall, started_s: float) -> None:
        self.path = call.path
        self.body = call.body
        self.status = 200
        self.dialect = call.endpoint.dialect
        self.content_type = _content_type(call)
        self.failed: OutcomeKind | None = None
        self.usage: Usage | None = None
        self._call = call
        self._started_s = started_s
        self._engine_status = 200
        self._holds_body = True
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._is_over = False
        self._has_sent = False

    def head(self, status: int, content_type: str) -> tuple[int, str]:
        """Takes the engine's status and content type; gives those for the client so far."""
        self._engine_status = status
        is_json = content_type.lower().startswith("application/json")
        self._holds_body = not 200 <= status < 300 or not self._call.streams or is_json
        if not 200 <= status < 300:
            self.status = status
            self.content_type = _content_type(self._call, is_error=True)
        return self.status, self.content_type

    def feed(self, data: bytes, now_s: float) -> bytes:
        """Bytes for the client from bytes of the engine, split anywhere."""
        if self._is_over:
            return b""
        if not self._holds_body:
            return self._events(data, now_s)
        self._held_bytes += len(data)
        if self._held_bytes > MAX_BODY_BYTES:
            return self._fail(TOO_LARGE)
        self._held.append(data)
        return b""

    def end(self, now_s: float) -> bytes:
        """The rest for the client, after the engine's last byte or when its connection broke."""
        if self._is_over:
            return b""
        if not self._holds_body:
            return self._last_events(now_s)
        body = b"".join(self._held)
        self._held.clear()
        if not 200 <= self._engine_status < 300:
            return self._fail(failed_status(self._engine_status, body, self._call))
        output = self._whole(body, now_s)
        self._is_over = True
        return output

    def _events(self, data: bytes, now_s: float) -> bytes:
        raise NotImplementedError

    def _last_events(self, now_s: float) -> bytes:
        raise NotImplementedError

    def _whole(self, body: bytes, now_s: float) -> bytes:
        raise NotImplementedError

    def _fail(self, failure: Failure) -> bytes:
        self._is_over = True
        self.failed = failure.outcome
        self._held.clear()
        if not self._has_sent:
            self.status = failure.status
            self.content_type = _content_type(self._call, is_error=True)
        return _error(failure, self._call, has_sent=self._has_sent)


def _content_type(call: EngineCall, *, is_error: bool = False) -> str:
    """An error in a stream that has not begun is a single answer."""
    is_anthropic = call.endpoint.dialect is Dialect.ANTHROPIC
    if call.streams and not is_error:
        return EVENTS if is_anthropic else NDJSON
    return PLAIN_JSON if is_anthropic else JSON


def _error(failure: Failure, call: EngineCall, *, has_sent: bool) -> bytes:
    """The client's last bytes, in its dialect."""
    dialect, path, message = call.endpoint.dialect, call.endpoint.path, failure.message
    if dialect is Dialect.OLLAMA:
        return error_body(message) + (b"\n" if has_sent else b"")
    if has_sent:
        return stream_error(message, dialect, path)
    _, _, body = render(ApiError(failure.status, message, failure.outcome.value), dialect, path)
    return body


def _writer(call: EngineCall, started_s: float) -> LineWriter | MessageWriter:
    if call.endpoint.dialect is Dialect.ANTHROPIC:
        answer_id = message_id(call.body[-_SEED_BYTES:], started_s)
        return MessageWriter(answer_id, call.model, call.prompt_tokens)
    return LineWriter(call.endpoint.kind, call.model)


_SEED_BYTES = 4096
"""Of a request's end, for the id of its answer: enough to tell those of one moment apart."""


class GenerationReply(Reply):
    """The answer to a chat, generate or messages request, streamed or whole."""

    def __init__(self, call: EngineCall, started_s: float) -> None:
        super().__init__(call, started_s)
        self._writer = _writer(call, started_s)
        self._splitter = SseSplitter()
        self._tool_calls = ToolCalls()
        self._counts: Counts | None = None
        self._timings: Timings | None = None
        self._done_reason = ""
        self._pieces = 0
        self._first_s: float | None = None
        self._last_s = started_s

    def _events(self, data: bytes, now_s: float) -> bytes:
        try:
            events = self._splitter.feed(data)
        except FrameTooLargeError:
            return self._fail(TOO_LARGE)
        if len(events) == 1:
            return self._event(events[0], now_s)
        output = []
        for event in events:
            output.append(self._event(event, now_s))
            if self._is_over:
                break
        return b"".join(output)

    def _last_events(self, now_s: float) -> bytes:
        output = b""
        try:
            rest = self._splitter.end()
        except FrameTooLargeError:
            return self._fail(TOO_LARGE)
        for event in rest:
            if self._is_over:
                break
            if event[0] == BARE_TEXT or event[1] == b"[DONE]" or _is_whole(event[1]):
                output += self._event(event, now_s)
        if self._is_over:
            return output
        return output + (self._done(now_s) if self._done_reason else self._fail(UNFINISHED))

    def _event(self, event: Event, now_s: float) -> bytes:
        name, data = event
        if data == b"[DONE]":
            return self._done(now_s)
        if not data:
            return b""
        if name == BARE_TEXT:
            is_error = data.startswith(_BARE_ERRORS)
            return self._fail(failed_text(data, self._call)) if is_error else b""
        try:
            chunk = read_chunk(data)
        except ValueError:
            return self._fail(GARBAGE)
        if chunk.error or name == b"error":
            return self._fail(failed_event(chunk.error or tolerant_json(data), self._call))
        if chunk.usage is not None:
            self._counts = chunk.usage
        if chunk.timings is not None:
            self._timings = chunk.timings
        return self._choice(chunk.choices[0], now_s) if chunk.choices else b""

    def _choice(self, choice: Choice, now_s: float) -> bytes:
        if choice.index:
            return b""
        part = self._part(choice, choice.delta)
        output = b""
        if part.thinking or part.logprobs:
            output = self._writer.part_line(part, now_s)
        elif part.content:
            output = self._writer.text_line(part.content, now_s)
        if output:
            self._has_sent = True
            self._pieces += 1
            self._last_s = now_s
            if self._first_s is None:
                self._first_s = now_s
        if choice.finish_reason:
            output += self._finish(choice.finish_reason, now_s)
        return output

    def _part(self, choice: Choice, message: Message | None) -> Part:
        if message is None:
            part = Part(choice.text or "")
        else:
            part = Part(message.content or "", message.reasoning_content or message.reasoning or "")
            if message.tool_calls:
                self._tool_calls.add(message.tool_calls)
        if choice.logprobs is not None:
            part.logprobs = self._logprobs(choice.logprobs)
        return part

    def _logprobs(self, value: Any) -> list[Logprob] | None:
        return read_logprobs(value, self._call.top_logprobs)

    def _finish(self, finish_reason: str, now_s: float) -> bytes:
        """The finish reason came: tool calls are whole now; the counts are still to come."""
        part = Part()
        failure = self._end_of(finish_reason, part)
        if failure is not None:
            return self._fail(failure)
        if not part.tool_calls:
            return b""
        self._has_sent = True
        self._last_s = now_s
        return self._writer.part_line(part, now_s)

    def _end_of(self, finish_reason: str, part: Part) -> Failure | None:
        """Notes why the answer ended and puts its tool calls into `part`."""
        if finish_reason in _BROKEN_OFF:
            return UNFINISHED
        self._done_reason = "length" if finish_reason == "length" else "stop"
        try:
            part.tool_calls = self._tool_calls.finished(cut_short=self._done_reason == "length")
        except ToolCallError:
            return _BAD_TOOL_CALL
        return None

    def _done(self, now_s: float) -> bytes:
        """The last line. Some engines mark the end with `[DONE]` only."""
        calls = self._finish("stop", now_s) if not self._done_reason else b""
        if self._is_over:
            return calls
        self._is_over = self._has_sent = True
        metrics = self._metrics(now_s)
        return calls + self._writer.done_line(self._done_reason, metrics, now_s)

    def _whole(self, body: bytes, now_s: float) -> bytes:
        try:
            chunk = read_chunk(body)
        except ValueError:
            return self._fail(GARBAGE)
        if chunk.error:
            return self._fail(failed_event(chunk.error, self._call))
        choice = chunk.choices[0] if chunk.choices else Choice()
        if choice.message is None and choice.text is None:
            return self._fail(GARBAGE)
        self._counts, self._timings = chunk.usage, chunk.timings
        part = self._part(choice, choice.message)
        failure = self._end_of(choice.finish_reason or "stop", part)
        if failure is not None:
            return self._fail(failure)
        metrics = self._metrics(now_s)
        if not self._call.streams:
            return self._writer.whole(part, self._done_reason, metrics, now_s)
        # The engine did not stream although it was asked to.
        line = self._writer.part_line(part, now_s)
        return line + self._writer.done_line(self._done_reason, metrics, now_s)

    def _metrics(self, now_s: float) -> Metrics:
        counts, timings = self._counts or Counts(), self._timings or Timings()
        total_ns = nanoseconds(now_s - self._started_s)
        prompt_ns, eval_ns = self._durations(timings, total_ns)
        prompt_tokens = counts.prompt_tokens
        if prompt_tokens is None and timings.prompt_n is not None:
            prompt_tokens = timings.prompt_n + (timings.cache_n or 0)
        output_tokens = counts.completion_tokens
        if output_tokens is None:
            output_tokens = timings.predicted_n
        if output_tokens is None and self._pieces:
            output_tokens = self._pieces  # engines stream token by token
        self.usage = Usage(
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            prefill_ms=timings.prompt_ms,
            decode_ms=timings.predicted_ms,
            done_reason=self._done_reason,
        )
        # What is left is the wait for a slot and, with a router behind the engine, a load.
        load_ns = max(0, total_ns - prompt_ns - eval_ns) if timings.prompt_ms is not None else 0
        return Metrics(
            total_ns,
            load_ns,
            _counted(prompt_tokens),
            prompt_ns,
            _counted(output_tokens),
            max(1, eval_ns),  # clients divide by it
        )

    def _durations(self, timings: Timings, total_ns: int) -> tuple[int, int]:
        """Prompt eval and eval in ns: as llama.cpp says, else as seen, else all of it is eval."""
        if self._first_s is None:
            prompt_ns, eval_ns = 0, total_ns
        else:
            prompt_ns = nanoseconds(self._first_s - self._started_s)
            eval_ns = nanoseconds(self._last_s - self._first_s)
        if timings.prompt_ms is not None:
            prompt_ns = nanoseconds(timings.prompt_ms / 1e3)
        if timings.predicted_ms is not None:
            eval_ns = nanoseconds(timings.predicted_ms / 1e3)
        return prompt_ns, eval_ns


_BAD_TOOL_CALL = Failure(
    OutcomeKind.GARBAGE,
    502,
    "the model called a tool with arguments that are not a JSON object; send the request again",
)


def _counted(tokens: int | None) -> int:
    """What an engine may have counted."""
    return max(0, min(MAX_COUNT, tokens or 0))


def _is_whole(data: bytes) -> bool:
    """Whether an event that was cut off by the end of the stream is all there."""
    try:
        read_chunk(data)
    except ValueError:
        return False
    return True
