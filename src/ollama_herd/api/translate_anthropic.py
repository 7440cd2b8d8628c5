"""The body of Anthropic's `/v1/messages` for an engine that speaks only OpenAI's dialect.

What a real Ollama does with a request is done here too (`anthropic.FromMessagesRequest`): text
blocks are put together without a gap, results of tools stand before the text of their message,
blocks of unknown types and `metadata` are left out. `tool_choice` and a JSON Schema in
`output_config`, which an Ollama ignores, go on: engines know them.
"""

from typing import Any, Final

import msgspec

from ollama_herd.api.translate_options import response_format, thinking_fields
from ollama_herd.api.translate_values import Fields, RequestRefusedError, unsupported

_EFFORTS: Final = {"low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "max"}
"""`output_config.effort` and the level of thinking that it stands for."""

_CHOICES: Final = {"auto": "auto", "any": "required", "none": "none"}
"""`tool_choice.type` in OpenAI's words."""

_NO_PARAMETERS: Final = {"type": "object", "properties": {}}

_SERVER_TOOLS: Final = ("web_search", "web_fetch", "code_execution")
"""Tools that the server of the API runs itself, by the beginning of their type."""

_Message = dict[str, Any]


def chat_of_messages(request: Fields, engine_model: str) -> dict[str, Any]:
    """The engine's fields for a chat. Raises `RequestRefusedError` (400)."""
    messages = _system(request)
    for message in request.listed("messages", "[]anthropic.MessageParam"):
        messages += _converted(request.inner(message, "messages", "anthropic.MessageParam"))
    stream = request.truth("stream")
    call: dict[str, Any] = {
        "model": engine_model,
        "messages": messages,
        "max_tokens": request.integer("max_tokens"),
        "stream": stream,
        **_sampling(request),
        **_tools(request),
        **_thinking(request),
        **_layout(request),
    }
    if stream:
        call["stream_options"] = {"include_usage": True}
    return call


def _system(request: Fields) -> list[_Message]:
    value = request.get("system")
    text = value if isinstance(value, str) else _text_of(value)
    return [{"role": "system", "content": text}] if text else []


def _text_of(blocks: Any) -> str:
    """The text blocks of a list, put together."""
    return "".join(
        block["text"]
        for block in (blocks if isinstance(blocks, list) else ())
        if _is(block, "text") and isinstance(block.get("text"), str)
    )


def _is(block: Any, kind: str) -> bool:
    return isinstance(block, dict) and block.get("type") == kind


def _converted(message: Fields) -> list[_Message]:
    """A message, and before it the results of tools that it brings."""
    role = message.text("role").lower()
    content = message.get("content")
    if isinstance(content, str):
        return [{"role": role, "content": content}] if content else []
    parts = _Parts()
    for block in message.listed("content", "[]anthropic.ContentBlock"):
        if isinstance(block, dict):
            parts.take(message.inner(block, "content", "anthropic.ContentBlock"))
    return parts.messages(role)


class _Parts:
    """The blocks of one message, sorted."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._images: list[dict[str, Any]] = []
        self._calls: list[dict[str, Any]] = []
        self._thinking = ""
        self._results: list[_Message] = []

    def take(self, block: Fields) -> None:
        match block.text("type"):
            case "text":
                self._text.append(block.text("text"))
            case "image":
                self._images.append(_image(block.get("source")))
            case "tool_use":
                self._calls.append(_tool_call(block))
            case "tool_result":
                self._take_result(block)
            case "thinking":
                self._thinking = block.text("thinking")
            case "document":
                self._text.append(_document(block.get("source")))
            case "search_result":
                self._text.append(_text_of(block.get("content")))

    def messages(self, role: str) -> list[_Message]:
        text = "".join(self._text)
        if not (text or self._images or self._calls or self._thinking):
            return self._results
        message: _Message = {"role": role, "content": text}
        if self._images:
            told = [{"type": "text", "text": text}] if text else []
            message["content"] = told + self._images
        if self._thinking:
            message["reasoning_content"] = self._thinking
        if self._calls:
            message["tool_calls"] = self._calls
        return [*self._results, message]

    def _take_result(self, block: Fields) -> None:
        """Its pictures go into the message behind it: a tool's message holds text only."""
        content = block.get("content")
        text = content if isinstance(content, str) else ""
        for inner in content if isinstance(content, list) else ():
            if _is(inner, "image"):
                self._images.append(_image(inner.get("source")))
            elif _is(inner, "document"):
                text += _document(inner.get("source"))
            elif _is(inner, "search_result"):
                text += _text_of(inner.get("content"))
            else:
                text += _text_of([inner])
        call_id = block.text("tool_use_id")
        self._results.append({"role": "tool", "content": text, "tool_call_id": call_id})


def _image(source: Any) -> dict[str, Any]:
    """A picture as a data URI. Nothing is fetched on anyone's behalf."""
    if not isinstance(source, dict):
        raise RequestRefusedError(400, "invalid image source")
    kind, data = source.get("type"), source.get("data")
    if kind != "base64":
        message = f"invalid image source type: {kind}. Only base64 images are supported."
        raise RequestRefusedError(400, message)
    if not isinstance(data, str) or not data:
        raise RequestRefusedError(400, "invalid base64 image data: there is none")
    media_type = source.get("media_type")
    if not isinstance(media_type, str) or not media_type.startswith("image/"):
        media_type = "image/jpeg"
    return {"type": "image_url", "image_url": {"url": f"data:{media_type};base64,{data}"}}


def _document(source: Any) -> str:
    """The text of a document that is text: plain, or as blocks of text only."""
    if _is(source, "text") and isinstance(source.get("data"), str):
        return str(source["data"])
    if _is(source, "content"):
        content = source.get("content")
        if isinstance(content, str):
            return content
        if isinstance(content, list) and all(_is(block, "text") for block in content):
            return _text_of(content)
    raise RequestRefusedError(
        400,
        "the engine that serves this model reads no documents but plain text; send the document's "
        "text, or its pages as images",
    )


def _tool_call(block: Fields) -> dict[str, Any]:
    call_id, name = block.text("id"), block.text("name")
    if not call_id or not name:
        missing = "name" if call_id else "id"
        raise RequestRefusedError(400, f"tool_use block missing required '{missing}' field")
    given = block.mapping("input", "api.ToolCallFunctionArguments")
    arguments = msgspec.json.encode(given).decode()
    return {
        "id": call_id,
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def _sampling(request: Fields) -> dict[str, Any]:
    """Anthropic's names are the engines' own, all but one."""
    sampling: dict[str, Any] = {}
    for name in ("temperature", "top_p"):
        value = request.number(name)
        if value is not None:
            sampling[name] = value
    if request.get("top_k") is not None:
        sampling["top_k"] = request.integer("top_k")
    stop = request.listed("stop_sequences", "[]string")
    if not all(isinstance(text, str) for text in stop):
        raise RequestRefusedError(400, "stop_sequences must be a list of strings")
    return sampling | ({"stop": stop} if stop else {})


def _tools(request: Fields) -> dict[str, Any]:
    tools = [
        _tool(request.inner(tool, "tools", "anthropic.Tool"))
        for tool in request.listed("tools", "[]anthropic.Tool")
    ]
    if not tools:
        return {}
    fields: dict[str, Any] = {"tools": tools}
    choice = request.inner(request.get("tool_choice") or {}, "tool_choice", "anthropic.ToolChoice")
    kind = choice.text("type")
    if kind == "tool":
        fields["tool_choice"] = {"type": "function", "function": {"name": choice.text("name")}}
    elif kind in _CHOICES:
        fields["tool_choice"] = _CHOICES[kind]
    if choice.truth("disable_parallel_tool_use"):
        fields["parallel_tool_calls"] = False
    return fields


def _tool(tool: Fields) -> dict[str, Any]:
    kind = tool.text("type")
    if kind.startswith(_SERVER_TOOLS):
        raise unsupported(f"the tool {kind}, which a server runs itself", "send a tool of your own")
    function: dict[str, Any] = {"name": tool.text("name")}
    if tool.text("description"):
        function["description"] = tool.text("description")
    schema = tool.mapping("input_schema", "api.ToolFunctionParameters")
    function["parameters"] = schema or _NO_PARAMETERS
    return {"type": "function", "function": function}


def _thinking(request: Fields) -> dict[str, Any]:
    """`thinking` where it says something, else the effort that is wanted."""
    asked = request.inner(request.get("thinking") or {}, "thinking", "anthropic.ThinkingConfig")
    kind = asked.text("type")
    if kind in ("enabled", "disabled"):
        return thinking_fields(kind == "enabled")
    effort = _output_config(request).text("effort").strip().lower()
    if effort in _EFFORTS:
        return thinking_fields(_EFFORTS[effort])
    return thinking_fields(True if kind == "adaptive" else None)


def _layout(request: Fields) -> dict[str, Any]:
    wanted = _output_config(request).get("format")
    if _is(wanted, "json_schema") and isinstance(wanted.get("schema"), dict):
        return {"response_format": response_format(wanted["schema"])}
    return {}


def _output_config(request: Fields) -> Fields:
    given = request.get("output_config") or {}
    return request.inner(given, "output_config", "anthropic.OutputConfig")
