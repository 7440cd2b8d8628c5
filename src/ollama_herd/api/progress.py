"""One progress stream out of several: pull, push and create on more than one node.

Each node's NDJSON lines go in, split anywhere; the lines for the client come out:

- a layer's `completed` is the least over the nodes that have not finished, and never falls;
- a status is said once, when all nodes have come so far;
- `success` is held back until the caller has seen to the end, and is said once, last;
- a node that fails does not stop the others, but there is no `success`: the last line is the
  error, with the node's name and what the others have done.

The lines of a single node pass byte by byte as they are.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from ollama_herd.api.gojson import encode_string, escape_html

MAX_LINE_BYTES = 1024 * 1024
"""A progress line is some 150 bytes; an engine that sends this much without a newline is none."""

BROKEN_OFF = "the connection to it was lost before it was done"

_SUCCESS = b'{"status":"success"}\n'


class ProgressLine(msgspec.Struct):
    """What an engine tells while it pulls or pushes; sizes in bytes."""

    status: str = ""
    digest: str = ""
    total: int = 0
    completed: int = 0
    error: str = ""


class _Layer:
    """One layer over all nodes. `told` is the last line the client got of it."""

    def __init__(self, status: str, nodes: int) -> None:
        self.status = status
        self.total = 0
        self.completed = [0] * nodes
        self.lowest = 0
        self.told = b""


class _Stream:
    """One node's stream so far."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.rest = b""
        self.has_layers = False
        self.said: set[str] = set()
        self.has_succeeded = False
        self.error = ""
        self.last_line = _SUCCESS

    @property
    def is_over(self) -> bool:
        return self.has_succeeded or bool(self.error)


class Progress:
    """Merges the streams of the nodes called `names`, in that order."""

    def __init__(self, names: Sequence[str]) -> None:
        self._streams = [_Stream(name) for name in names]
        self._layers: dict[str, _Layer] = {}
        self._waiting: list[str] = []  # statuses not yet said, in order of appearance
        self._known: set[str] = set()

    def feed(self, index: int, data: bytes) -> bytes:
        """Bytes of the node at `index`; bytes for the client."""
        stream = self._streams[index]
        *lines, rest = (stream.rest + data).split(b"\n")
        if len(rest) > MAX_LINE_BYTES:
            return b"".join((*self._take_all(index, lines), self.fail(index, "it sent no lines")))
        stream.rest = rest
        return b"".join(self._take_all(index, lines))

    def end(self, index: int, detail: str = "") -> bytes:
        """The stream has ended; `detail` says how when it was cut."""
        stream = self._streams[index]
        rest, stream.rest = stream.rest, b""
        out = b"".join(self._take_all(index, [rest])) if rest.strip() else b""
        return out if stream.is_over else out + self.fail(index, detail or BROKEN_OFF)

    def fail(self, index: int, reason: str) -> bytes:
        """The node will not succeed; no more is expected of it."""
        stream = self._streams[index]
        if not stream.is_over:
            stream.error = reason
        return self._say_what_is_due()

    @property
    def has_failed(self) -> bool:
        return any(stream.error for stream in self._streams)

    def succeeded(self) -> list[int]:
        """The nodes that are done, by index."""
        return [i for i, stream in enumerate(self._streams) if stream.has_succeeded]

    @property
    def error(self) -> str:
        """What went wrong, for the client; "" when nothing did."""
        failed = [stream for stream in self._streams if stream.error]
        if not failed:
            return ""
        if len(failed) == len(self._streams) and len({s.error for s in failed}) == 1:
            return failed[0].error  # the model's fault, not a node's: as one Ollama says it
        told = "; ".join(f"node {stream.name}: {stream.error}" for stream in failed)
        done = ", ".join(stream.name for stream in self._streams if stream.has_succeeded)
        return f"{told}; done on {done}" if done else told

    def finish(self) -> bytes:
        """The last line: `success`, or what went wrong."""
        error = self.error
        if error and error == self._streams[0].error and self._streams[0].last_line != _SUCCESS:
            return self._streams[0].last_line
        if error:
            return f'{{"error":{encode_string(error)}}}\n'.encode()
        out = [_status_line(status) for status in self._waiting]
        return b"".join((*out, self._streams[0].last_line))

    def _take_all(self, index: int, lines: Sequence[bytes]) -> list[bytes]:
        return [self._take(index, line) for line in lines if line.strip()]

    def _take(self, index: int, line: bytes) -> bytes:
        stream = self._streams[index]
        if stream.is_over:
            return b""
        value = _decoded(line)
        if value.error:
            stream.last_line = line + b"\n"
            return self.fail(index, value.error)
        if value.status == "success":
            stream.has_succeeded = True
            stream.last_line = line + b"\n"
            return self._say_what_is_due()
        if len(self._streams) == 1:
            return line + b"\n"
        if value.digest:
            stream.has_layers = True
            return self._take_layer(index, value)
        return self._take_status(stream, value.status)

    def _take_layer(self, index: int, value: ProgressLine) -> bytes:
        layer = self._layers.get(value.digest)
        if layer is None:
            layer = self._layers[value.digest] = _Layer(value.status, len(self._streams))
        layer.total = max(layer.total, value.total)
        layer.completed[index] = max(layer.completed[index], value.completed)
        line = self._layer_line(value.digest, layer)
        running = next(i for i, s in enumerate(self._streams) if not s.is_over)
        if line == layer.told and index != running:
            return b""  # one node's repetitions are sign of life enough
        layer.told = line
        return line

    def _layer_line(self, digest: str, layer: _Layer) -> bytes:
        lowest = min(
            layer.completed[i] if not stream.is_over else layer.total
            for i, stream in enumerate(self._streams)
        )
        layer.lowest = max(layer.lowest, min(lowest, layer.total))
        return _layer_line(digest, layer)

    def _take_status(self, stream: _Stream, status: str) -> bytes:
        stream.said.add(status)
        if status not in self._known:
            self._known.add(status)
            self._waiting.append(status)
            if not stream.has_layers and not self._layers:
                self._waiting.remove(status)  # before the long work: nobody has to catch up
                return _status_line(status)
        return self._say_what_is_due()

    def _say_what_is_due(self) -> bytes:
        """Statuses in order, as far as every node that still works has come."""
        out = []
        while self._waiting and all(self._has_come_so_far(s) for s in self._streams):
            out.append(_status_line(self._waiting.pop(0)))
        return b"".join(out)

    def _has_come_so_far(self, stream: _Stream) -> bool:
        """To the first status that waits, or past it."""
        return stream.is_over or not stream.said.isdisjoint(self._waiting)


def _decoded(line: bytes) -> ProgressLine:
    """A line's fields; what is no such line is passed on as the status it stands for."""
    try:
        return msgspec.json.decode(line, type=ProgressLine)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        text = line[:200].decode("utf-8", "replace").strip()
        return ProgressLine(error=f"it answered with something else: {text}")


def _status_line(status: str) -> bytes:
    return f'{{"status":{encode_string(status)}}}\n'.encode()


def _layer_line(digest: str, layer: _Layer) -> bytes:
    value: dict[str, Any] = {"status": layer.status, "digest": digest, "total": layer.total}
    if layer.lowest:
        value["completed"] = layer.lowest  # absent while 0, as Ollama has it
    return escape_html(msgspec.json.encode(value)) + b"\n"
