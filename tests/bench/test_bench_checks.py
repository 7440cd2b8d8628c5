"""The bench must notice a stream that is not whole: its checks are tested on damaged ones."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

import wire
from checks import check_stream, percentile

ORDER = wire.Order(id=7, chunks=5, period_us=1000)


def _body(order: wire.Order = ORDER) -> bytes:
    """The JSON lines of a stream, line `n` sent at `1000 + n` microseconds."""
    lines = [wire.chunk(1000 + n, order.id, n) for n in range(order.chunks)]
    return b"".join(line.partition(b"\r\n")[2][:-2] for line in lines) + wire.final_line(
        order.chunks
    )


def _framed(pieces: list[bytes]) -> bytes:
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces if piece)
    return wire.STREAM_HEAD + chunks + b"0\r\n\r\n"


def _cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({place % len(data) for place in places} | {0, len(data)})
    return [data[start:end] for start, end in itertools.pairwise(ends)]


CUTS = st.lists(st.integers(min_value=0, max_value=10_000), max_size=12)


@given(chunk_cuts=CUTS, read_cuts=CUTS)
def test_a_whole_stream_passes_however_it_is_framed_and_read(chunk_cuts, read_cuts):
    raw = _framed(_cut(_body(), chunk_cuts))
    reads = _cut(raw, read_cuts)
    ends = [sum(map(len, reads[: n + 1])) for n in range(len(reads))]
    times_us = [5000 + n for n in range(len(reads))]

    received = check_stream(raw, ORDER, ends, times_us)

    assert received.problem == ""
    arrived = [delay + 1000 + n for n, delay in enumerate(received.delays_us)]
    assert len(arrived) == ORDER.chunks
    assert arrived == sorted(arrived)
    assert set(arrived) <= set(times_us)


@given(chunk_cuts=CUTS, place=st.integers(min_value=0, max_value=10_000))
def test_a_stream_without_some_of_its_bytes_fails(chunk_cuts, place):
    raw = _framed(_cut(_body(), chunk_cuts))
    short = raw[: place % len(raw)]

    assert check_stream(short, ORDER, [len(short)], [5000]).problem


def test_lines_of_another_stream_fail():
    mixed = _body()[: 2 * wire.LINE_BYTES] + _body(ORDER._replace(id=8))[2 * wire.LINE_BYTES :]
    raw = _framed([mixed])

    assert "belongs to stream 8" in check_stream(raw, ORDER, [len(raw)], [5000]).problem


def test_lines_out_of_order_fail():
    size = wire.LINE_BYTES
    body = _body()
    raw = _framed([body[size : 2 * size] + body[:size] + body[2 * size :]])

    assert "line 1 where 0 was due" in check_stream(raw, ORDER, [len(raw)], [5000]).problem


def test_an_error_instead_of_a_stream_fails():
    raw = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"

    assert "502" in check_stream(raw, ORDER, [len(raw)], [5000]).problem


def test_bytes_behind_the_end_fail():
    raw = _framed([_body()]) + b"HTTP/1.1 200 OK\r\n\r\n"

    assert "behind the end" in check_stream(raw, ORDER, [len(raw)], [5000]).problem


def test_small_requests_and_answers_are_1_kb():
    body = wire.request(wire.Order(12), 11435).partition(b"\r\n\r\n")[2]

    assert len(body) == len(wire.answer(12)) == wire.BODY_BYTES
    assert wire.read_order(body) == wire.Order(12)


def test_percentile_of_a_hundred():
    values = list(range(100, 0, -1))

    assert percentile(values, 50) == 51
    assert percentile(values, 99) == 100
    assert percentile([], 99) == 0
