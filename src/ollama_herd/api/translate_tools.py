"""Tool calls of an OpenAI engine, put together from their pieces: Ollama gives each one whole."""

from collections.abc import Iterable
from typing import Any

import msgspec

from ollama_herd.api.ollama_lines import ToolCall
from ollama_herd.api.openai_chunks import ToolPiece
from ollama_herd.api.translate_values import tolerant_json


class ToolCallError(ValueError):
    """A tool call whose arguments are not a JSON object."""


class _Call:
    def __init__(self, index: int) -> None:
        self.index = index
        self.call_id = ""
        self.name = ""
        self.pieces: list[str] = []
        self.whole: dict[str, Any] | None = None


class ToolCalls:
    """The tool calls of one answer."""

    def __init__(self) -> None:
        self._calls: dict[int, _Call] = {}

    def __bool__(self) -> bool:
        return bool(self._calls)

    def add(self, pieces: Iterable[ToolPiece]) -> None:
        """Takes pieces of a stream, or whole calls."""
        for piece in pieces:
            call = self._call_of(piece)
            call.call_id = call.call_id or piece.id or ""
            if piece.function is None:
                continue
            call.name += piece.function.name or ""
            if isinstance(piece.function.arguments, dict):
                call.whole = piece.function.arguments
            elif isinstance(piece.function.arguments, str):
                call.pieces.append(piece.function.arguments)

    def finished(self, *, cut_short: bool) -> tuple[ToolCall, ...]:
        """All calls, in order. Raises `ToolCallError` when arguments are not a JSON object.

        With `cut_short` (the answer ended at its token limit) an unfinished call is left out, as
        a real Ollama does.
        """
        done = []
        for index in sorted(self._calls):
            call = self._calls[index]
            try:
                arguments = _arguments(call)
            except ToolCallError:
                if cut_short:
                    continue
                raise
            done.append(ToolCall(call.call_id, call.index, call.name, arguments))
        self._calls = {}
        return tuple(done)

    def _call_of(self, piece: ToolPiece) -> _Call:
        index = piece.index
        if index is None:
            # Without an index a piece with a new id begins the next call.
            last = max(self._calls, default=-1)
            is_next = last < 0 or (piece.id and piece.id != self._calls[last].call_id)
            index = last + 1 if is_next else last
        return self._calls.setdefault(index, _Call(index))


def _arguments(call: _Call) -> bytes:
    """The text of a JSON object."""
    if call.whole is not None:
        return msgspec.json.encode(call.whole)
    text = "".join(call.pieces).strip()
    if not text:
        return b"{}"
    try:
        value = tolerant_json(text.encode())
        if isinstance(value, str):  # encoded twice
            value = tolerant_json(value.encode())
    except ValueError as error:
        raise ToolCallError from error
    if not isinstance(value, dict):
        raise ToolCallError
    return msgspec.json.encode(value)
