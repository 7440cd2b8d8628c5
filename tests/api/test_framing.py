from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_herd.api import framing
from ollama_herd.api.framing import BARE_TEXT, Event, FrameTooLargeError, LineSplitter, SseSplitter
from tests.api.exchanges import llamacpp

EDGES = [b"\n", b"\r", b"\r\n"]
TEXT = st.text(st.characters(blacklist_characters="\r\n", blacklist_categories=["Cs"]))


def split(make: Callable[[], Any], data: bytes, cuts: list[int]) -> list[Any]:
    splitter = make()
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    found = []
    for start, end in pairwise(places):
        found += splitter.feed(data[start:end])
    return found + splitter.end()


CUTS = st.lists(st.integers(min_value=0), max_size=12)


@given(st.lists(TEXT), st.sampled_from([b"\n", b"\r\n"]), st.sampled_from([0, 1]), CUTS)
def test_lines_come_whole_however_they_are_cut(
    lines: list[str], edge: bytes, ends: int, cuts: list[int]
) -> None:
    raw = [line.encode() for line in lines]
    data = edge.join(raw) + edge * ends
    assert split(LineSplitter, data, cuts) == [line for line in raw if line]


@given(st.lists(st.lists(TEXT, min_size=1), max_size=6), st.data(), CUTS)
def test_events_come_whole_however_they_are_cut(
    events: list[list[str]], data: st.DataObject, cuts: list[int]
) -> None:
    stream = b""
    for lines in events:
        for line in lines:
            stream += b"data: " + line.encode() + data.draw(st.sampled_from(EDGES))
        stream += data.draw(st.sampled_from(EDGES))
        stream += data.draw(st.sampled_from([b"", b": ping\n", b":\r\n\r\n", b"id: 7\n"]))
    expected = [(b"", "\n".join(lines).encode()) for lines in events]
    # A line feed right behind a carriage return is part of it: the drawn ends can meet that way
    # and make a blank line vanish, so the stream is compared with its uncut self in that case.
    whole = split(SseSplitter, stream, [])
    assert split(SseSplitter, stream, cuts) == whole
    if b"\r" not in stream:
        assert whole == expected


@given(st.binary(max_size=200), CUTS)
def test_any_bytes_give_the_same_events_however_they_are_cut(data: bytes, cuts: list[int]) -> None:
    assert split(SseSplitter, data, cuts) == split(SseSplitter, data, [])


@given(
    st.lists(st.sampled_from([b"data: ", b"data:", b"x", b"\n", b"\r", b"event: e", b":"])), CUTS
)
def test_any_fields_give_the_same_events_however_they_are_cut(
    parts: list[bytes], cuts: list[int]
) -> None:
    data = b"".join(parts)
    assert split(SseSplitter, data, cuts) == split(SseSplitter, data, [])


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: a\n\ndata: b\n\n", [(b"", b"a"), (b"", b"b")]),
        (b"data: a\r\n\r\ndata: b\r\r", [(b"", b"a"), (b"", b"b")]),
        (b"data: a\ndata:  b\ndata\n\n", [(b"", b"a\n b\n")]),
        (b": ping\n\n:\n\ndata: a\n\n", [(b"", b"a")]),
        (b"event: error\ndata: {}\n\ndata: a\n\n", [(b"error", b"{}"), (b"", b"a")]),
        (b"event: lost\n\ndata: a\n\n", [(b"", b"a")]),
        (b"id: 1\nretry: 5\nid\ndata: a\n\n", [(b"", b"a")]),
        (b"\xef\xbb\xbfdata: a\n\n", [(b"", b"a")]),
        (b"data: a\n\n\n\n\ndata: b\n\n\n", [(b"", b"a"), (b"", b"b")]),
        (b"data: a", [(b"", b"a")]),
        (b"data: a\n\nproxy error: gone", [(b"", b"a"), (BARE_TEXT, b"proxy error: gone")]),
        (b"", []),
    ],
)
def test_event_stream(stream: bytes, events: list[Event]) -> None:
    assert split(SseSplitter, stream, []) == events
    assert split(SseSplitter, stream, list(range(len(stream)))) == events


def test_carriage_return_ends_an_event_without_waiting_for_more() -> None:
    splitter = SseSplitter()
    assert splitter.feed(b"data: a\r\r") == [(b"", b"a")]
    assert splitter.feed(b"\ndata: b\n\n") == [(b"", b"b")]


def test_recorded_stream_gives_its_events() -> None:
    exchange = llamacpp("021")
    events = split(SseSplitter, exchange.body, [])
    assert len(events) == 11
    assert events[-1] == (b"", b"[DONE]")
    assert all(data.startswith(b'{"choices":') for _, data in events[:-1])


@pytest.mark.parametrize("make", [LineSplitter, SseSplitter])
def test_a_frame_without_end_is_refused(
    make: Callable[[], LineSplitter | SseSplitter], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(framing, "MAX_FRAME_BYTES", 1000)
    splitter = make()
    for _ in range(10):
        splitter.feed(b"x" * 100)
    with pytest.raises(FrameTooLargeError):
        splitter.feed(b"x")


def test_an_event_of_many_lines_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(framing, "MAX_FRAME_BYTES", 1000)
    splitter = SseSplitter()
    splitter.feed(b"data: " + b"x" * 900 + b"\n")
    with pytest.raises(FrameTooLargeError):
        splitter.feed(b"data: " + b"x" * 200 + b"\n")


def test_finished_frames_leave_room_for_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(framing, "MAX_FRAME_BYTES", 1000)
    events, lines = SseSplitter(), LineSplitter()
    for _ in range(10):
        assert len(events.feed(b"data: " + b"x" * 400)) == 0
        assert len(events.feed(b"x" * 400 + b"\n\n")) == 1
        assert len(lines.feed(b"x" * 400)) == 0
        assert len(lines.feed(b"x" * 400 + b"\n")) == 1
