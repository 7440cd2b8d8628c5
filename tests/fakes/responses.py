"""The `/v1/responses` voice of a fake Ollama. Streamed objects have their keys sorted: the real
server builds them as Go maps."""

from collections.abc import Sequence
from typing import Any

from tests.fakes.dialects import EVENT_HEADERS
from tests.fakes.gojson import dumps
from tests.fakes.turn import Token, Turn


class ResponsesVoice:
    """Events with a sequence number, ended by `response.completed`."""

    stream_type = "text/event-stream"
    whole_type = "application/json"
    stream_headers = EVENT_HEADERS

    def __init__(self) -> None:
        self._sequence = 0

    def token(self, turn: Turn, token: Token) -> Sequence[bytes]:
        opening: list[bytes] = []
        place = {"content_index": 0, "item_id": self._item_id(turn), "output_index": 0}
        if len(turn.said) == 1:
            started = self._streamed(turn, "in_progress", [], None)
            item = {
                "content": [],
                "id": self._item_id(turn),
                "role": "assistant",
                "status": "in_progress",
                "type": "message",
            }
            opening = [
                self._event("response.created", {"response": started}),
                self._event("response.in_progress", {"response": started}),
                self._event("response.output_item.added", {"item": item, "output_index": 0}),
                self._event("response.content_part.added", {**place, "part": self._part("")}),
            ]
        delta = {**place, "delta": token.text, "logprobs": []}
        return [*opening, self._event("response.output_text.delta", delta)]

    def ending(self, turn: Turn) -> Sequence[bytes]:
        place = {"content_index": 0, "item_id": self._item_id(turn), "output_index": 0}
        part = self._part(turn.text())
        done = {**place, "logprobs": [], "text": turn.text()}
        item = {
            "content": [part],
            "id": self._item_id(turn),
            "role": "assistant",
            "status": "completed",
            "type": "message",
        }
        response = self._streamed(turn, "completed", [item], self._usage(turn))
        return [
            self._event("response.output_text.done", done),
            self._event("response.content_part.done", {**place, "part": part}),
            self._event("response.output_item.done", {"item": item, "output_index": 0}),
            self._event("response.completed", {"response": response}),
        ]

    def whole(self, turn: Turn) -> bytes:
        item = {
            "id": self._item_id(turn),
            "type": "message",
            "status": "completed",
            "role": "assistant",
            "content": [
                {"type": "output_text", "text": turn.text(), "annotations": [], "logprobs": []}
            ],
        }
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
            "output": [item],
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

    def _event(self, name: str, fields: dict[str, Any]) -> bytes:
        body = {**fields, "sequence_number": self._sequence, "type": name}
        self._sequence += 1
        ordered = dict(sorted(body.items()))
        return b"event: " + name.encode() + b"\ndata: " + dumps(ordered) + b"\n\n"
