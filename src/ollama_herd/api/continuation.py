"""A stream that broke off: what it had said, and the request that makes another node go on.

The text so far becomes the beginning of the assistant's answer (the whole of a raw prompt gets it
appended), so the model goes on behind its last word. That is sound for plain text only; a stream
that had not said anything yet is simply asked for again, whatever it was.
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

import msgspec

from ollama_herd.api.endpoints import INFERENCE, Endpoint
from ollama_herd.api.framing import FrameTooLargeError, LineSplitter, SseSplitter
from ollama_herd.api.parse import ParsedBody
from ollama_herd.core.node import EngineKind
from ollama_herd.core.request import Dialect

Fields = dict[str, Any]

CONTINUABLE: Final = frozenset(
    {"/api/chat", "/api/generate", "/v1/chat/completions", "/v1/completions", "/v1/messages"}
)

_CHAT_OF: Final[Mapping[str, str]] = MappingProxyType(
    {"/api/generate": "/api/chat", "/v1/completions": "/v1/chat/completions"}
)
"""An Ollama puts these prompts into the model's chat template as one user message."""

_OWN_FORM: Final = ("template", "context", "suffix", "images", "best_of", "echo")
"""Fields of a prompt's request that no chat can express, or that more than one text answers."""


class Said(msgspec.Struct, frozen=True):
    """What a stream's client has got. `pieces` counts frames with text, about one a token.

    `opening` holds the fields of the first frame that later ones repeat (id, created, model, …).
    `is_plain` is False once anything but text was said. `is_open`: a content block was begun
    (Anthropic); `is_ended`: only the end marker was missing.
    """

    text: str = ""
    pieces: int = 0
    opening: Fields = {}
    is_plain: bool = True
    is_open: bool = False
    is_ended: bool = False


class _Choices(msgspec.Struct, frozen=True):
    """How many answers a body of OpenAI's dialect asks for."""

    n: Any = 1


class Continuation(msgspec.Struct, frozen=True):
    """The request that goes on: `parsed` for `endpoint`. `is_replay`: it is the old one again."""

    endpoint: Endpoint
    parsed: ParsedBody
    is_replay: bool = False


# --- what was said -----------------------------------------------------------------------------


def read_said(endpoint: Endpoint, sent: bytes) -> Said:
    """The sum of a stream that broke off; frames that are cut or errors do not count. Never raises.

    A stream that cannot be read as one of this endpoint is not plain.
    """
    try:
        frames = list(_frames(endpoint, sent))
    except FrameTooLargeError:
        return Said(is_plain=False)
    if endpoint.dialect is Dialect.ANTHROPIC:
        return _said_in_messages(frames)
    said: list[str] = []
    is_plain, is_ended = True, False
    for frame in frames:
        text, is_only_text, is_last = _part(endpoint, frame)
        is_plain = is_plain and is_only_text
        is_ended = is_ended or is_last
        if text:
            said.append(text)
    opening = frames[0] if frames else {}
    return Said("".join(said), len(said), opening, is_plain=is_plain, is_ended=is_ended)


def _frames(endpoint: Endpoint, sent: bytes) -> Iterator[Fields]:
    if endpoint.dialect is Dialect.OLLAMA:
        pieces = LineSplitter().feed(sent)
    else:
        pieces = [data for _, data in SseSplitter().feed(sent)]
    for piece in pieces:
        try:
            value = msgspec.json.decode(piece)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            continue
        if isinstance(value, dict) and not _is_last_word(value):
            yield value


def _is_last_word(frame: Fields) -> bool:
    """An error, or the nameless chunk of an Ollama whose runner died; no client has got it."""
    return "error" in frame or frame.get("type") == "error" or frame.get("model") == ""


def _part(endpoint: Endpoint, frame: Fields) -> tuple[str, bool, bool]:
    """(text, whether there is nothing else, whether it closes the answer) of one frame."""
    if endpoint.dialect is Dialect.OLLAMA:
        holder, is_last = frame.get("message", frame), frame.get("done") is True
        text = holder.get("content", holder.get("response")) if isinstance(holder, dict) else None
    else:
        choices = frame.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else {}
        if not isinstance(choice, dict):
            return "", False, False
        holder, is_last = choice.get("delta", choice), bool(choice.get("finish_reason"))
        text = holder.get("content", holder.get("text")) if isinstance(holder, dict) else None
    if not isinstance(holder, dict) or not isinstance(text, str | None):
        return "", False, is_last
    return text or "", not any(holder.get(key) for key in _NOT_TEXT), is_last


_NOT_TEXT = ("thinking", "reasoning", "reasoning_content", "tool_calls", "refusal", "audio")


def _said_in_messages(frames: list[Fields]) -> Said:
    """/v1/messages: one text block at most."""
    said: list[str] = []
    opening: Fields = {}
    is_plain, is_open, is_ended = True, False, False
    for frame in frames:
        kind = frame.get("type")
        if kind == "message_start" and isinstance(frame.get("message"), dict):
            opening = frame["message"]
        elif kind == "content_block_start":
            block = frame.get("content_block")
            is_text = isinstance(block, dict) and block.get("type") == "text"
            is_plain = is_plain and is_text and not is_open
            is_open = True
        elif kind == "content_block_delta":
            delta = frame.get("delta")
            text = delta.get("text") if isinstance(delta, dict) else None
            if isinstance(text, str):
                said.append(text)
            else:
                is_plain = False
        elif kind == "content_block_stop":
            is_plain = is_plain and bool(said)
            is_ended = True
    return Said("".join(said), len(said), opening, is_plain, is_open, is_ended)


# --- how it goes on ----------------------------------------------------------------------------


def why_not(endpoint: Endpoint, parsed: ParsedBody, said: Said) -> str:
    """Why this answer cannot go on elsewhere, "" when it can."""
    if endpoint.path not in CONTINUABLE:
        return f"answers of {endpoint.path} cannot be continued"
    is_only_text = said.is_plain and not said.is_ended
    if is_only_text and not said.text:
        return ""
    if endpoint.dialect is Dialect.OPENAI and _has_choices(parsed.body):
        return "several choices (n) cannot be continued"
    if not is_only_text:
        return "more than plain text had been said"
    reasons = {
        "tools": parsed.has_tools,
        "images": parsed.has_images,
        "a format": parsed.has_format,
        "logprobs": parsed.logprobs,
        "thinking": bool(parsed.think) and parsed.think != "none",
    }
    asked = [name for name, is_asked in reasons.items() if is_asked]
    return f"an answer with {asked[0]} cannot be continued" if asked else ""


def _has_choices(body: bytes) -> bool:
    """Whether a body of OpenAI's dialect asks for more than one answer."""
    try:
        asked = msgspec.json.decode(body, type=_Choices)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return asked.n not in (1, None)


def continued(
    endpoint: Endpoint, parsed: ParsedBody, said: Said, kind: EngineKind
) -> Continuation | None:
    """The request that lets an engine of this kind go on; None when its form allows none.

    Ask `why_not` first.
    """
    if not said.text:
        return Continuation(endpoint, parsed, is_replay=True)
    try:
        body = msgspec.json.decode(parsed.body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    if not isinstance(body, dict) or body.get("n", 1) not in (1, None):
        return None
    is_prompt = endpoint.path in _CHAT_OF
    if is_prompt:
        if any(body.get(field) for field in _OWN_FORM):
            return None
        is_raw = bool(body.get("raw")) or (
            endpoint.dialect is Dialect.OPENAI and kind is EngineKind.OPENAI
        )
        built = _prompt(body, said.text) if is_raw else _chat(body, said.text)
        target = endpoint if is_raw else INFERENCE[_CHAT_OF[endpoint.path].encode()]
    else:
        built, target = _messages(body, said.text), endpoint
    if built is None:
        return None
    _leave_fewer(endpoint, built, said.pieces)
    data = msgspec.json.encode(built)
    return Continuation(target, msgspec.structs.replace(parsed, body=data, unpacked=True))


def _messages(body: Fields, text: str) -> Fields | None:
    """A chat goes on in the assistant's name; one that ends so already is extended."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages or not isinstance(messages[-1], dict):
        return None
    last = messages[-1]
    if last.get("role") != "assistant":
        return {**body, "messages": [*messages, {"role": "assistant", "content": text}]}
    begun = last.get("content")
    if not isinstance(begun, str):
        return None
    return {**body, "messages": [*messages[:-1], {**last, "content": begun + text}]}


def _prompt(body: Fields, text: str) -> Fields | None:
    prompt = body.get("prompt")
    return {**body, "prompt": prompt + text} if isinstance(prompt, str) else None


def _chat(body: Fields, text: str) -> Fields | None:
    """A prompt as the chat that an Ollama makes of it."""
    prompt, system = body.get("prompt"), body.get("system")
    if not isinstance(prompt, str) or not isinstance(system, str | None):
        return None
    messages = [{"role": "system", "content": system}] if system else []
    messages += [{"role": "user", "content": prompt}, {"role": "assistant", "content": text}]
    rest = {key: value for key, value in body.items() if key not in ("prompt", "system", "raw")}
    return {**rest, "messages": messages}


def _leave_fewer(endpoint: Endpoint, body: Fields, pieces: int) -> None:
    """What was said counts towards the client's bound on the answer; at least a token is left."""
    if endpoint.dialect is Dialect.OLLAMA:
        options = body.get("options")
        if isinstance(options, dict):
            body["options"] = holder = dict(options)
            _reduce(holder, "num_predict", pieces)
        return
    for key in ("max_tokens", "max_completion_tokens"):
        _reduce(body, key, pieces)


def _reduce(holder: Fields, key: str, pieces: int) -> None:
    bound = holder.get(key)
    if isinstance(bound, int) and not isinstance(bound, bool) and bound > 0:
        holder[key] = max(1, bound - pieces)
