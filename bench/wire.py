"""The bytes that both ends of the bench agree on; checks.py tells whether they arrived whole.

What the fake engine shall do is written in the prompt, so that it passes any proxy unmodified:
`#bench id=00007 n=80 period_us=100000 first_us=0 size=0#`. Answers carry the id, each chunk also
its number and the moment it was sent (microseconds of the system-wide monotonic clock).
"""

import re
from typing import NamedTuple

MODEL = "bench:latest"
"""The model of the fake engine (upstream.py)."""

FAST_MODEL = "bench-fast:latest"
"""The model of the nginx that plays engine for the rate of small requests."""

BODY_BYTES = 1024
"""Size of a small request and of its answer, as in the study the targets come from."""

END = b"\r\n0\r\n\r\n"
"""End of a chunked answer."""


class Order(NamedTuple):
    """What the fake engine is asked for. `chunks` 0: one answer of 1 KB, not a stream.

    `period_us` between chunks (0: as fast as the socket takes them), `first_us` before the
    first byte, `pad` extra bytes in each chunk.
    """

    id: int
    chunks: int = 0
    period_us: int = 0
    first_us: int = 0
    pad: int = 0


_ORDER = re.compile(rb"#bench id=(\d+) n=(\d+) period_us=(\d+) first_us=(\d+) size=(\d+)#")


def order_text(order: Order) -> str:
    return (
        f"#bench id={order.id:05d} n={order.chunks} period_us={order.period_us} "
        f"first_us={order.first_us} size={order.pad}#"
    )


def read_order(body: bytes) -> Order:
    """The order in a body; one plain answer when there is none."""
    found = _ORDER.search(body)
    if found is None:
        return Order(0)
    return Order(*map(int, found.groups()))


def request(order: Order, port: int, model: str = MODEL, image_base64: str = "") -> bytes:
    """`POST /api/chat` for the order, padded to 1 KB, or with an image of any size."""
    image = f',"images":["{image_base64}"]' if image_base64 else ""
    stream = "true" if order.chunks else "false"
    before = (
        f'{{"model":"{model}","stream":{stream},"options":{{"temperature":0.5}},'
        f'"messages":[{{"role":"user","content":"{order_text(order)}'
    )
    after = f'"{image}}}]}}'
    filler = max(0, BODY_BYTES - len(before) - len(after)) if not image else 0
    body = (before + "x" * filler + after).encode()
    head = (
        f"POST /api/chat HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUser-Agent: bench\r\n"
        f"Accept: */*\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


_ANSWER_BEFORE = (
    b'{"model":"bench:latest","created_at":"2026-01-01T00:00:00Z",'
    b'"message":{"role":"assistant","content":"'
)
_ANSWER_AFTER = (
    b'"},"done":true,"done_reason":"stop","total_duration":91000000,"load_duration":1000000,'
    b'"prompt_eval_count":26,"prompt_eval_duration":20000000,"eval_count":%d,'
    b'"eval_duration":70000000}\n'
)


def answer(order_id: int, crc: int = 0) -> bytes:
    """The 1 KB answer; `crc` is that of the request's body where it was asked to be checked."""
    after = _ANSWER_AFTER % 40
    text = b"%05d %08x " % (order_id, crc)
    return _ANSWER_BEFORE + text.ljust(BODY_BYTES - len(_ANSWER_BEFORE) - len(after), b"y") + after


ANSWER_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\n"
    b"Date: Thu, 01 Jan 2026 00:00:00 GMT\r\nContent-Length: %d\r\n\r\n"
)
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n"
    b"Date: Thu, 01 Jan 2026 00:00:00 GMT\r\nTransfer-Encoding: chunked\r\n\r\n"
)

LINE_BEFORE = (
    b'{"model":"bench","created_at":"2026-01-01T00:00:00Z",'
    b'"message":{"role":"assistant","content":"'
)
LINE_AFTER = b'"},"done":false}\n'
_MARK_BYTES = 12 + 5 + 6  # sent_us, id, number
LINE_BYTES = len(LINE_BEFORE) + _MARK_BYTES + len(LINE_AFTER)
"""A chunk's JSON line: about what Ollama sends for a token."""

_LINE_FORMAT = b"%x\r\n" % LINE_BYTES + LINE_BEFORE + b"%012d%05d%06d" + LINE_AFTER + b"\r\n"


def chunk(sent_us: int, order_id: int, number: int) -> bytes:
    """One line in its HTTP chunk."""
    return _LINE_FORMAT % (sent_us, order_id, number)


def padded_chunk(sent_us: int, order_id: int, number: int, pad: int) -> bytes:
    line = LINE_BEFORE + b"%012d%05d%06d" % (sent_us, order_id, number) + b"z" * pad + LINE_AFTER
    return b"%x\r\n%s\r\n" % (len(line), line)


def final_line(chunks: int) -> bytes:
    return _ANSWER_BEFORE + _ANSWER_AFTER % chunks


def final_chunk(chunks: int) -> bytes:
    """The line that ends a stream, in its chunk, and the end of the answer."""
    line = final_line(chunks)
    return b"%x\r\n%s\r\n0\r\n\r\n" % (len(line), line)
