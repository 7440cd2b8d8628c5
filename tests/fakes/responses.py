"""The `/v1/responses` voice of a fake Ollama. Streamed objects have their keys sorted: the real
server builds them as Go maps."""

from collections.abc import Sequence
from typing import Any

from tests.fakes.dialects import EVENT_HEADERS
from tests.fakes.gojson import dumps
from tests.fakes.turn import Token, Turn


class ResponsesVoice:
    """Events with a sequence number, ended by `response.completed`: thoughts are an item, then
    calls of tools are one each, or else the text is one."""

    stream_type = "text/event-stream"
    whole_type = "application/json"
    stream_headers = EVENT_HEADERS

    def __init__(self) -> None:
        self._sequence = 0
        self._output: list[dict[str, Any]] = []
        """Items that are finished."""

    def token(self, turn: Turn, token: Token) -> Sequence[bytes]:
        events = self._begun(turn) if len(turn.said) == 1 else []
        kinds = {said.is_thinking for said in turn.said[:-1]}
        if token.is_thinking:
            place = {"item_id": self._thought_id(turn), "output_index": 0, "summary_index": 0}
            if True not in kinds:
                item = {"id": self._thought_id(turn), "summary": [], "type": "reasoning"}
                events += self._item("added", item, 0)
            delta = {**place, "delta": token.text}
            return [*events, self._event("response.reasoning_summary_text.delta", delta)]
        events += self._thought_done(turn)
        place = self._place(turn)
        if False not in kinds:
            item = {**self._message(turn, "in_progress"), "content": []}
            events += self._item("added", item, len(self._output))
            part = {**place, "part": self._part("")}
            events.append(self._event("response.content_part.added", part))
        delta = {**place, "delta": token.text, "logprobs": []}
        return [*events, self._event("response.output_text.delta", delta)]

    def ending(self, turn: Turn) -> Sequence[bytes]:
        events = [] if turn.said else self._begun(turn)
        events += self._thought_done(turn)
        if turn.tool_calls:
            for call in _calls(turn):
                events += self._called(call)
        elif turn.text():
            events += self._text_done(turn)
        response = self._streamed(turn, "completed", self._output, self._usage(turn))
        return [*events, self._event("response.completed", {"response": response})]

    def whole(self, turn: Turn) -> bytes:
        body = {
            "id": f"resp_{turn.number(999999)}",
            "object": "response",
            "created_at": int(turn.now_s()),
            "completed_at": int(turn.now_s()),
            "status": "completed",
            "incomplete_details": None,
            "model": turn.name,
            "previous_response_id": None,
            "instructions": turn.asked.get("instructions"),
            "output": self._whole_items(turn),
            "error": None,
            "tools": [],
            "tool_choice": "auto",
            "truncation": "disabled",
            "parallel_tool_calls": True,
            "text": {"format": {"type": "text"}},
            "top_p": 1,
            "presence_penalty": 0,
            "frequency_penalty": 0,
            "top_logprobs": 0,
            "temperature": turn.asked.get("temperature", 1),
            "reasoning": None,
            "usage": self._whole_usage(turn),
            "max_output_tokens": turn.asked.get("max_output_tokens"),
            "max_tool_calls": None,
            "store": False,
            "background": False,
            "service_tier": "default",
            "metadata": {},
            "safety_identifier": None,
            "prompt_cache_key": None,
        }
        return dumps(body) + b"\n"

    def died(self, turn: Turn) -> Sequence[bytes]:
        return []

    def _whole_items(self, turn: Turn) -> list[dict[str, Any]]:
        items = [self._thought(turn)] if turn.thought() else []
        if turn.tool_calls:
            return [*items, *_calls(turn)]
        part = {"type": "output_text", "text": turn.text(), "annotations": [], "logprobs": []}
        head = {"id": self._item_id(turn), "type": "message", "status": "completed"}
        return [*items, {**head, "role": "assistant", "content": [part]}]

    def _begun(self, turn: Turn) -> list[bytes]:
        started = {"response": self._streamed(turn, "in_progress", [], None)}
        return [self._event(f"response.{name}", started) for name in ("created", "in_progress")]

    def _thought_done(self, turn: Turn) -> list[bytes]:
        """Closes the thoughts, when there are any and they are open."""
        if not turn.thought() or self._output:
            return []
        item = self._thought(turn)
        place = {"item_id": item["id"], "output_index": 0, "summary_index": 0}
        done = self._event(
            "response.reasoning_summary_text.done", {**place, "text": turn.thought()}
        )
        return [done, *self._done(item)]

    def _text_done(self, turn: Turn) -> list[bytes]:
        place, part = self._place(turn), self._part(turn.text())
        text = {**place, "logprobs": [], "text": turn.text()}
        return [
            self._event("response.output_text.done", text),
            self._event("response.content_part.done", {**place, "part": part}),
            *self._done({**self._message(turn, "completed"), "content": [part]}),
        ]

    def _called(self, call: dict[str, Any]) -> list[bytes]:
        index, told = len(self._output), "response.function_call_arguments"
        place = {"item_id": call["id"], "output_index": index}
        return [
            *self._item("added", {**call, "arguments": "", "status": "in_progress"}, index),
            self._event(f"{told}.delta", {**place, "delta": call["arguments"]}),
            self._event(f"{told}.done", {**place, "arguments": call["arguments"]}),
            *self._done(call),
        ]

    def _done(self, item: dict[str, Any]) -> list[bytes]:
        ordered = dict(sorted(item.items()))
        self._output.append(ordered)
        return self._item("done", ordered, len(self._output) - 1)

    def _item(self, what: str, item: dict[str, Any], index: int) -> list[bytes]:
        fields = {"item": dict(sorted(item.items())), "output_index": index}
        return [self._event(f"response.output_item.{what}", fields)]

    def _message(self, turn: Turn, status: str) -> dict[str, Any]:
        return {
            "id": self._item_id(turn),
            "role": "assistant",
            "status": status,
            "type": "message",
        }

    def _thought(self, turn: Turn) -> dict[str, Any]:
        summary = [{"type": "summary_text", "text": turn.thought()}]
        head = {"id": self._thought_id(turn), "type": "reasoning", "summary": summary}
        return {**head, "encrypted_content": turn.thought()}

    def _place(self, turn: Turn) -> dict[str, Any]:
        index = 1 if turn.thought() else 0
        return {"content_index": 0, "item_id": self._item_id(turn), "output_index": index}

    def _streamed(
        self, turn: Turn, status: str, output: list[Any], usage: dict[str, Any] | None
    ) -> dict[str, Any]:
        is_done = status == "completed"
        return {
            "background": False,
            "completed_at": int(turn.now_s()) if is_done else None,
            "created_at": int(turn.now_s()),
            "error": None,
            "frequency_penalty": 0,
            "id": f"resp_{turn.number(999999)}",
            "incomplete_details": None,
            "instructions": turn.asked.get("instructions"),
            "max_output_tokens": turn.asked.get("max_output_tokens"),
            "max_tool_calls": None,
            "metadata": {},
            "model": turn.name,
            "object": "response",
            "output": output,
            "parallel_tool_calls": True,
            "presence_penalty": 0,
            "previous_response_id": None,
            "prompt_cache_key": None,
            "reasoning": None,
            "safety_identifier": None,
            "service_tier": "default",
            "status": status,
            "store": False,
            "temperature": turn.asked.get("temperature", 1),
            "text": {"format": {"type": "text"}},
            "tool_choice": "auto",
            "tools": [],
            "top_logprobs": 0,
            "top_p": 1,
            "truncation": "disabled",
            "usage": usage,
        }

    def _usage(self, turn: Turn) -> dict[str, Any]:
        prompt, said = turn.prompt_tokens, max(1, len(turn.said))
        return {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": said,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": prompt + said,
        }

    def _whole_usage(self, turn: Turn) -> dict[str, Any]:
        usage = self._usage(turn)
        order = ("input_tokens", "output_tokens", "total_tokens")
        return {**{name: usage[name] for name in order}, **usage}

    def _part(self, text: str) -> dict[str, Any]:
        return {"annotations": [], "logprobs": [], "text": text, "type": "output_text"}

    def _item_id(self, turn: Turn) -> str:
        return f"msg_{turn.number(999999)}"

    def _thought_id(self, turn: Turn) -> str:
        return f"rs_{turn.number(999999)}"

    def _event(self, name: str, fields: dict[str, Any]) -> bytes:
        body = {**fields, "sequence_number": self._sequence, "type": name}
        self._sequence += 1
        ordered = dict(sorted(body.items()))
        return b"event: " + name.encode() + b"\ndata: " + dumps(ordered) + b"\n\n"


def _calls(turn: Turn) -> list[dict[str, Any]]:
    return [
        {
            "id": f"fc_{turn.number(999999)}_{i}",
            "type": "function_call",
            "status": "completed",
            "call_id": f"call_{i:08d}",
            "name": call["name"],
            "arguments": dumps(call["arguments"]).decode(),
        }
        for i, call in enumerate(turn.tool_calls)
    ]
