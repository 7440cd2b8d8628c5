"""Incremental splitting of NDJSON and of server-sent events, at any byte boundary.

Both splitters work on bytes and never decode them, so a character that is split between two reads
comes out whole. They hold no more than `MAX_FRAME_BYTES` of an unfinished frame.
"""

from typing import Final

Event = tuple[bytes, bytes]
"""Name and data of a server-sent event. The name is b"" unless the stream gives one; a line that
is no SSE field at all comes as `(BARE_TEXT, line)`."""

BARE_TEXT: Final = b"\0"
"""Name of a line that belongs to no event. The specification drops such lines, but llama.cpp's
router reports a lost model as the bare text `proxy error: …` inside the event stream."""

MAX_FRAME_BYTES: Final = 64 * 1024 * 1024
"""Longest line or event: well above any real one (a streamed tool call of some megabytes), so that
an engine that never ends a line cannot fill the memory."""

_FIELDS = frozenset({b"data", b"event", b"id", b"retry"})
_BOM = b"\xef\xbb\xbf"


class FrameTooLargeError(ValueError):
    """A line or event is longer than `MAX_FRAME_BYTES`."""


class LineSplitter:
    """Splits NDJSON into lines without their line ends; blank lines are dropped."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._held_bytes = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that `data` completes. Raises `FrameTooLargeError`."""
        if b"\n" not in data:
            self._hold(data)
            return []
        lines = (b"".join(self._pieces) + data).split(b"\n")
        self._pieces.clear()
        self._held_bytes = 0
        self._hold(lines.pop())
        return [line for raw in lines if (line := raw.removesuffix(b"\r"))]

    def end(self) -> list[bytes]:
        """The last line when the input ended without a line end; at most one."""
        last = b"".join(self._pieces).removesuffix(b"\r")
        self._pieces.clear()
        self._held_bytes = 0
        return [last] if last else []

    def _hold(self, data: bytes) -> None:
        if not data:
            return
        self._held_bytes += len(data)
        if self._held_bytes > MAX_FRAME_BYTES:
            raise FrameTooLargeError(f"a line is longer than {MAX_FRAME_BYTES} bytes")
        self._pieces.append(data)


class SseSplitter:
    """Splits a `text/event-stream` into events (WHATWG HTML, section 9.2.6).

    Line ends may be LF, CR or CRLF, also split between reads; comments are dropped; several data
    lines of one event are joined with a line feed.
    """

    def __init__(self) -> None:
        self._pieces: list[bytes] = []  # of the line that has not ended yet
        self._data: list[bytes] = []  # data lines of the event that has not ended yet
        self._name = b""
        self._held_bytes = 0
        self._skip_line_feed = False
        self._at_start = True

    def feed(self, data: bytes) -> list[Event]:
        """The events that `data` completes. Raises `FrameTooLargeError`."""
        if (
            data.startswith(b"data: ")
            and data.endswith(b"\n\n")
            and not (self._pieces or self._data or self._name)
            and b"\r" not in data
        ):
            # What engines send nearly always: whole events of one data line each.
            parts = data[6:-2].split(b"\n\ndata: ")
            if data.count(b"\n") == 2 * len(parts):
                self._at_start = self._skip_line_feed = False
                return [(b"", part) for part in parts]
        return self._feed_any(data)

    def end(self) -> list[Event]:
        """What an input that ended without a blank line leaves behind; then the splitter is empty.

        The specification drops an unfinished event. It is given out here, because some servers do
        not end their last event; whoever decodes it sees whether it is whole.
        """
        last = b"".join(self._pieces)
        self._pieces.clear()
        events: list[Event] = []
        if last:
            self._take(last, events)
        self._take(b"", events)
        return events

    def _feed_any(self, data: bytes) -> list[Event]:
        if self._skip_line_feed and data:
            self._skip_line_feed = False
            data = data.removeprefix(b"\n")
        if b"\n" not in data and b"\r" not in data:
            self._hold(self._pieces, data)
            return []
        text = b"".join(self._pieces) + data
        self._held_bytes -= sum(map(len, self._pieces))
        self._pieces.clear()
        if b"\r" in text:
            # A carriage return ends its line at once; a line feed right after it belongs to it.
            self._skip_line_feed = text.endswith(b"\r")
            text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        lines = text.split(b"\n")
        rest = lines.pop()
        events: list[Event] = []
        for line in lines:
            self._take(line, events)
        self._hold(self._pieces, rest)
        return events

    def _take(self, line: bytes, events: list[Event]) -> None:
        """One line, without its end; an event that it completes is added to `events`."""
        if self._at_start:
            self._at_start = False
            line = line.removeprefix(_BOM)
        if not line:
            if self._data:
                events.append((self._name, b"\n".join(self._data)))
                self._data.clear()
            self._name = b""
            self._held_bytes = 0
            return
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._hold(self._data, value)
        elif name == b"event":
            self._name = value
        elif name and name not in _FIELDS:
            events.append((BARE_TEXT, line))

    def _hold(self, where: list[bytes], data: bytes) -> None:
        self._held_bytes += len(data)
        if self._held_bytes > MAX_FRAME_BYTES:
            raise FrameTooLargeError(f"an event is longer than {MAX_FRAME_BYTES} bytes")
        if data or where is self._data:
            where.append(data)
