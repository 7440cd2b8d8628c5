"""Answers to `/v1/embeddings` in the form of Ollama's `/api/embed` and `/api/embeddings`."""

import binascii
import math
import struct
from typing import Any

import msgspec

from ollama_herd.api.ollama_lines import MAX_COUNT, embed_body, embedding_body, nanoseconds
from ollama_herd.api.openai_chunks import Counts
from ollama_herd.api.translate_errors import GARBAGE, Failure, failed_event
from ollama_herd.api.translate_reply import Reply
from ollama_herd.core.request import OutcomeKind, Usage

_UNIT_TOLERANCE = 1e-6
"""A vector within this of length 1 is left as it came: float32 knows no better."""

_NOT_FINITE = Failure(OutcomeKind.ENGINE_ERROR, 500, "embedding contains NaN or Inf values")


class _Item(msgspec.Struct):
    embedding: list[float] | str
    index: int | None = None


class _Embeddings(msgspec.Struct):
    data: list[_Item] | None = None
    usage: Counts | None = None
    error: Any = None


_decode = msgspec.json.Decoder(_Embeddings).decode


class EmbedReply(Reply):
    """The answer to an embedding request; always held whole."""

    def _whole(self, body: bytes, now_s: float) -> bytes:
        try:
            answer = _decode(body)
            vectors = _in_order(answer.data or [], self._call.inputs) if not answer.error else []
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError, struct.error):
            return self._fail(GARBAGE)
        if answer.error:
            return self._fail(failed_event(answer.error, self._call))
        counts = answer.usage or Counts()
        if self._call.is_legacy_embedding:
            output = embedding_body(vectors[0])
        else:
            try:
                vectors = [_normalised(vector, self._call.dimensions) for vector in vectors]
            except ValueError:
                return self._fail(_NOT_FINITE)
            output = embed_body(
                self._call.model,
                vectors,
                total_ns=nanoseconds(now_s - self._started_s),
                prompt_eval_count=max(0, min(MAX_COUNT, counts.prompt_tokens or 0)),
            )
        self.usage = Usage(prompt_tokens=counts.prompt_tokens, done_reason="stop")
        return output


def _in_order(items: list[_Item], inputs: int) -> list[list[float]]:
    """One vector for each input, in their order. Raises `ValueError` when they do not match."""
    places = [place if item.index is None else item.index for place, item in enumerate(items)]
    if sorted(places) != list(range(inputs)):
        raise ValueError("other vectors than were asked for")
    vectors: list[list[float]] = [[]] * inputs
    for place, item in zip(places, items, strict=True):
        vectors[place] = (
            item.embedding if isinstance(item.embedding, list) else _unpacked(item.embedding)
        )
    if not all(vectors):
        raise ValueError("an empty vector")
    return vectors


def _unpacked(text: str) -> list[float]:
    """OpenAI's `base64` form: float32, little-endian. Raises `ValueError` or `struct.error`."""
    packed = binascii.a2b_base64(text, strict_mode=True)
    return list(struct.unpack(f"<{len(packed) // 4}f", packed))


def _normalised(vector: list[float], dimensions: int) -> list[float]:
    """The vector cut to `dimensions` (0: not at all) with length 1, as Ollama does for any model.

    Raises `ValueError` when a number is not finite.
    """
    if 0 < dimensions < len(vector):
        vector = vector[:dimensions]
    length = math.hypot(*vector)
    if not math.isfinite(length):
        raise ValueError("not finite")
    if abs(length - 1.0) < _UNIT_TOLERANCE or length == 0.0:
        return vector
    return [number / length for number in vector]
