"""A fake Ollama that does what it is asked: calls tools, fills in schemas, thinks, counts pictures.

A pure function of the request, so that a client's task gives the same directly and through a herd.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from tests.fakes.manage import ManagedOllama
from tests.fakes.models import FakeModel, embedding_model, model
from tests.fakes.state import Scripted, Settings
from tests.fakes.wire import Reply, Request

SAY = re.compile(r"SAY<<(.*?)(?:>>|»)", re.DOTALL)
"""Words that a task puts into the model's mouth, for tools that want a form of their own. An editor
may have set the quotation mark."""

CALL = re.compile(r"CALL<<(\w+) (\{.*?\})(?:>>|»)", re.DOTALL)
"""A tool that a task has the model call, with its arguments: for agents with tools of their own."""

KEY = re.compile(r"[`'\"](\w+)[`'\"]")
PLACE = re.compile(r"\bin ([A-Z]\w+)")
"""What a model would find in a prompt: keys to answer with, a place."""

THOUGHT = ("Let", " me", " see.")
MOST_WORDS = 400


def catalogue() -> tuple[FakeModel, ...]:
    """Names that client suites ask for, each with what the real model can do."""
    return (
        model("llama3.1", capabilities=("completion", "tools", "vision", "embedding")),
        model("gpt-oss:20b", capabilities=("completion", "tools", "thinking")),
        model("deepseek-r1:1.5b", capabilities=("completion", "tools", "thinking")),
        embedding_model("nomic-embed-text"),
    )


def pullable() -> FakeModel:
    """What the fakes' registry has."""
    return model("fresh:1b", size_bytes=4000)


def settings() -> Settings:
    """Frozen, and slow enough for a client to leave in the middle."""
    return Settings(is_frozen=True, num_parallel=4, token_ms=1, max_loaded=8)


class TaskOllama(ManagedOllama):
    """Chooses its answer by the request."""

    async def _answer(self, request: Request, reply: Reply) -> None:
        if request.method == "POST" and request.body and not request.path.startswith("/api/blobs/"):
            try:
                asked = json.loads(request.body)  # keys as they are: a schema's have capitals
            except ValueError:
                asked = {}
            asked = asked if isinstance(asked, dict) else {}
            found = self.models.get(model(str(asked.get("model") or "x")).key)
            # Nothing is awaited between here and where the script is read.
            self.script(scripted(asked, found))
        await super()._answer(request, reply)


def scripted(asked: dict[str, Any], found: FakeModel | None) -> Scripted | None:
    """What to answer; None: the fake's own words."""
    if found is None:
        return None
    thinks = "thinking" in found.capabilities and asked.get("think") is not False
    thought = THOUGHT if thinks else ()
    told = asked.get("messages") or asked.get("input") or ()
    messages = [m for m in told if isinstance(m, dict)] if isinstance(told, list) else []
    said_to_it = [m for m in messages if m.get("role") not in ("system", "developer")]
    text = _text_of((said_to_it or messages or [asked])[-1])
    said = SAY.search(text)
    was_called = any(_is_result(one) for one in messages)
    calls = () if said or was_called else _tool_calls(asked, text)
    if calls:
        return Scripted(thinking=thought, tool_calls=calls)
    schema = _schema(asked, text)
    pictures = sum(_pictures(one) for one in [*messages, asked])
    if said:
        words = said[1]
    elif schema is not None:
        words = json.dumps(instance(schema, schema, text))
    elif said_to_it and _is_result(said_to_it[-1]):
        words = f"The tool says: {text}"
    elif pictures:
        words = f"I see {pictures} of them."
    elif thinks:
        words = f"You said: {text}"
    else:
        return None
    return Scripted(thinking=thought, tokens=tuple(_tokens(words)))


def instance(schema: Any, root: Any, text: str) -> Any:
    """A value that the JSON schema allows; strings are words of the prompt, numbers its first."""
    if not isinstance(schema, dict):
        return text
    if "$ref" in schema:
        return instance(root.get("$defs", {}).get(schema["$ref"].rpartition("/")[2]), root, text)
    for several in ("anyOf", "oneOf", "allOf"):
        if schema.get(several):
            return instance(schema[several][0], root, text)
    if "const" in schema or "enum" in schema:
        return schema["const"] if "const" in schema else schema["enum"][0]
    return _of_type(schema, root, text)


def _of_type(schema: dict[str, Any], root: Any, text: str) -> Any:
    number = int(found[0]) if (found := re.search(r"\d+", text)) else 3
    match schema.get("type", "object"):
        case "array":
            return [instance(schema.get("items", {"type": "string"}), root, text)]
        case "object":
            properties = schema.get("properties", {"answer": {"type": "string"}})
            return {name: instance(one, root, text) for name, one in properties.items()}
        case kind:
            values = {"integer": number, "number": number + 0.5, "boolean": True, "null": None}
            place = PLACE.search(text)
            return values.get(kind, place[1] if place else text[:60] or "word")


def _tool_calls(asked: dict[str, Any], text: str) -> tuple[dict[str, Any], ...]:
    choice = asked.get("tool_choice")
    tools = [tool.get("function", tool) for tool in asked.get("tools") or ()]
    if isinstance(choice, dict):
        wanted = choice.get("function", choice).get("name")
        tools = [tool for tool in tools if tool.get("name") == wanted] or tools
    if not tools or choice == "none":
        return ()
    if told := CALL.search(text):
        has_it = any(tool.get("name") == told[1] for tool in tools)
        return ({"name": told[1], "arguments": json.loads(told[2])},) if has_it else ()
    tool = next((t for t in tools if str(t.get("name")) in text), tools[0])
    schema = tool.get("parameters") or tool.get("input_schema") or {"type": "object"}
    return ({"name": tool["name"], "arguments": instance(schema, schema, text)},)


def _schema(asked: dict[str, Any], text: str) -> Any:
    wanted = asked.get("format")
    kind = asked.get("response_format") or (asked.get("text") or {}).get("format") or {}
    kind = kind or (asked.get("output_config") or {}).get("format") or {}
    if wanted == "json" or kind.get("type") == "json_object":
        keys = KEY.findall(text) or ["answer"]
        return {"type": "object", "properties": {key: {"type": "string"} for key in keys}}
    if isinstance(wanted, dict):
        return wanted
    if kind.get("type") == "json_schema":
        return kind.get("json_schema", kind).get("schema")
    return None


def _is_result(message: dict[str, Any]) -> bool:
    """Whether it tells what a tool returned."""
    kinds = [part.get("type") for part in _parts(message)]
    is_output = message.get("type") == "function_call_output"
    return message.get("role") == "tool" or "tool_result" in kinds or is_output


def _pictures(one: dict[str, Any]) -> int:
    kinds = ("image", "image_url", "input_image")
    return len(one.get("images") or ()) + sum(p.get("type") in kinds for p in _parts(one))


def _parts(one: dict[str, Any]) -> list[dict[str, Any]]:
    content = one.get("content")
    return [p for p in content if isinstance(p, dict)] if isinstance(content, list) else []


def _text_of(one: dict[str, Any]) -> str:
    for field in ("content", "prompt", "input", "output"):
        value = one.get(field)
        if isinstance(value, str):
            return value
        if isinstance(value, list):
            return " ".join(
                _text_of(p) if "text" not in p else str(p["text"])
                for p in value
                if isinstance(p, dict)
            )
    return ""


def _tokens(words: str) -> Iterator[str]:
    """Pieces that together are exactly the words."""
    return (found[0] for found in re.finditer(r"\s*\S+|\s+$", words[: MOST_WORDS * 20]))
