"""Messages of an Ollama chat in OpenAI's form: images, tool calls and tool results.

Ollama names the tool that a result comes from and may leave ids out; OpenAI links a result to its
call by id. Missing ids are made up here, the same ones on each turn, so that a conversation keeps
its prefix in the engine's cache.
"""

import base64
import binascii
from typing import Any, Final

import msgspec

from ollama_herd.api.translate_values import Fields, RequestRefusedError

_SNIFFED_CHARACTERS: Final = 24
"""Base64 characters that hold the 12 bytes which tell all formats below; whole groups of four."""

_IMAGE_TYPES: Final = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"),
)


class _CallIds:
    """Ids of tool calls in one conversation, and which results are still to come."""

    def __init__(self) -> None:
        self._made_up = 0
        self._open: list[tuple[str, str]] = []  # name, id

    def of_call(self, given: str, name: str) -> str:
        """The id of a call: the client's own, else a new one."""
        call_id = given or self._new()
        self._open.append((name, call_id))
        return call_id

    def of_result(self, given: str, name: str) -> str:
        """The id that a result answers to: its own, else that of the first open call of its tool,
        else that of the first open call at all.
        """
        for place, (open_name, open_id) in enumerate(self._open):
            if open_id == given if given else open_name == name:
                return self._open.pop(place)[1]
        if given:
            return given
        return self._open.pop(0)[1] if self._open else self._new()

    def _new(self) -> str:
        # Nine letters and digits: the templates of Mistral's models refuse any other length.
        self._made_up += 1
        return f"call{self._made_up:05d}"


def openai_messages(request: Fields) -> list[dict[str, Any]]:
    """The messages of a chat in OpenAI's form. Raises `RequestRefusedError` (400)."""
    ids = _CallIds()
    return [
        _message(request.inner(message, "messages", "api.Message"), ids)
        for message in request.listed("messages", "[]api.Message")
    ]


def chat_message(role: str, content: str, images: list[Any]) -> dict[str, Any]:
    """A message with text and pictures (base64). Raises `RequestRefusedError` (400)."""
    if not images:
        return {"role": role, "content": content}
    parts: list[dict[str, Any]] = [{"type": "text", "text": content}] if content else []
    parts += [_media_part(image, place) for place, image in enumerate(images)]
    return {"role": role, "content": parts}


def _message(message: Fields, ids: _CallIds) -> dict[str, Any]:
    role = message.text("role").lower()
    images = message.listed("images", "[]api.ImageData")
    converted = chat_message(role, message.text("content"), images)
    thinking = message.text("thinking")
    if thinking:
        converted["reasoning_content"] = thinking
    calls = message.listed("tool_calls", "[]api.ToolCall")
    if calls:
        converted["tool_calls"] = [
            _tool_call(message.inner(call, "tool_calls", "api.ToolCall"), ids) for call in calls
        ]
    name = message.text("tool_name")
    if role == "tool":
        converted["tool_call_id"] = ids.of_result(message.text("tool_call_id"), name)
    if name:
        converted["name"] = name
    return converted


def _tool_call(call: Fields, ids: _CallIds) -> dict[str, Any]:
    function = call.inner(call.get("function") or {}, "function", "api.ToolCallFunction")
    name = function.text("name")
    arguments = function.get("arguments")
    if not isinstance(arguments, str):  # text is not Ollama's form, but it is the engine's
        given = function.mapping("arguments", "api.ToolCallFunctionArguments")
        arguments = msgspec.json.encode(given).decode()
    return {
        "id": ids.of_call(call.text("id"), name),
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def _media_part(data: Any, place: int) -> dict[str, Any]:
    """A picture as a data URI, or a sound (Ollama carries both in `images`)."""
    if not isinstance(data, str):
        raise RequestRefusedError(400, f"images.{place} must be base64 text")
    if data.startswith("data:"):
        return {"type": "image_url", "image_url": {"url": data}}
    sound, media_type = _sniffed(data, place)
    if sound:
        return {"type": "input_audio", "input_audio": {"data": data, "format": sound}}
    return {"type": "image_url", "image_url": {"url": f"data:{media_type};base64,{data}"}}


def _sniffed(data: str, place: int) -> tuple[str, str]:
    """Format of a sound or "", media type of a picture. Only the start is decoded: pictures are
    megabytes, and the engine decodes them anyway.
    """
    start = data[:_SNIFFED_CHARACTERS]
    try:
        head = base64.b64decode(start + "=" * (-len(start) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestRefusedError(
            400,
            f"json: cannot unmarshal string into Alias.images.{place} of type api.ImageData: "
            "illegal base64 data",
        ) from error
    if head.startswith(b"RIFF"):
        return ("wav", "") if head[8:12] == b"WAVE" else ("", "image/webp")
    if head.startswith(b"ID3") or (head[:1] == b"\xff" and head[1:2] and head[1] & 0xE0 == 0xE0):
        return "mp3", ""
    known = (media_type for magic, media_type in _IMAGE_TYPES if head.startswith(magic))
    return "", next(known, "image/jpeg")  # Ollama's own guess for what it does not know
