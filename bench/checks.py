"""Whether an answer arrived whole and unmixed, and how late each of its chunks was."""

import struct
from collections.abc import Sequence
from typing import NamedTuple

from wire import LINE_AFTER, LINE_BEFORE, LINE_BYTES, Order, final_line

_LINE_PARTS = struct.Struct(f"{len(LINE_BEFORE)}s12s5s6s{len(LINE_AFTER)}s")


class Received(NamedTuple):
    """A stream as it came: `problem` is "" when it is whole and right."""

    problem: str
    delays_us: list[int]


class _Segment(NamedTuple):
    """An HTTP chunk: where its data ends in the body and in the raw bytes."""

    body_end: int
    raw_end: int


def check_stream(
    raw: bytes, order: Order, ends: Sequence[int], times_us: Sequence[int]
) -> Received:
    """Whether `raw` is the whole answer to `order`, each line at its place.

    `ends` and `times_us` say how far each read reached and when it came: a line arrived with
    the read that brought its last byte. Padded chunks are not supported.
    """
    head, separator, _ = raw.partition(b"\r\n\r\n")
    if not separator or not head.startswith(b"HTTP/1.1 200"):
        return Received(f"answered {head[:60]!r}", [])
    if b"transfer-encoding: chunked" not in head.lower():
        return Received("not chunked", [])
    try:
        body, segments = dechunk(raw, len(head) + 4)
    except ValueError as broken:
        return Received(str(broken), [])
    wanted_bytes = order.chunks * LINE_BYTES
    if body[wanted_bytes:] != final_line(order.chunks):
        return Received(f"{len(body)} bytes without the final line where it was due", [])
    problem = _first_wrong_line(body[:wanted_bytes], order)
    if problem:
        return Received(problem, [])
    arrived = _arrivals_us(order.chunks, segments, ends, times_us)
    sent = [int(parts[1]) for parts in _LINE_PARTS.iter_unpack(body[:wanted_bytes])]
    return Received("", [at - then for at, then in zip(arrived, sent, strict=True)])


def dechunk(raw: bytes, start: int) -> tuple[bytes, list[_Segment]]:
    """The body of a chunked answer that ends exactly where `raw` does; ValueError otherwise."""
    parts: list[bytes] = []
    segments: list[_Segment] = []
    body_end = 0
    position = start
    while True:
        line_end = raw.find(b"\r\n", position)
        if line_end < 0:
            raise ValueError("ends inside a chunk size")
        size = int(raw[position:line_end].partition(b";")[0], 16)
        data = line_end + 2
        if raw[data + size : data + size + 2] != b"\r\n":
            raise ValueError("ends inside a chunk, or a chunk is longer than its size")
        position = data + size + 2
        if size == 0:
            break
        parts.append(raw[data : data + size])
        body_end += size
        segments.append(_Segment(body_end, data + size))
    if position != len(raw):
        raise ValueError(f"{len(raw) - position} bytes behind the end")
    return b"".join(parts), segments


def _first_wrong_line(lines: bytes, order: Order) -> str:
    order_id = b"%05d" % order.id
    for number, parts in enumerate(_LINE_PARTS.iter_unpack(lines)):
        before, _, got_id, got_number, after = parts
        if before != LINE_BEFORE or after != LINE_AFTER:
            return f"line {number} is damaged"
        if got_id != order_id:
            return f"line {number} belongs to stream {int(got_id)}"
        if int(got_number) != number:
            return f"line {int(got_number)} where {number} was due"
    return ""


def _arrivals_us(
    count: int, segments: Sequence[_Segment], ends: Sequence[int], times_us: Sequence[int]
) -> list[int]:
    """When each of the first `count` lines was complete."""
    arrivals = []
    segment = read = 0
    for number in range(1, count + 1):
        body_end = number * LINE_BYTES
        while segments[segment].body_end < body_end:
            segment += 1
        raw_end = segments[segment].raw_end - (segments[segment].body_end - body_end)
        while ends[read] < raw_end:
            read += 1
        arrivals.append(times_us[read])
    return arrivals


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least `percent` of all do not exceed; 0 for none."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return float(ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))])
