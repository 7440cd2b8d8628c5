"""The same bytes as wire.py in the dialect of OpenAI: `POST /v1/chat/completions`.

The markers of a chunk are the same 23 digits, so that they can be found behind any translation.
"""

import re

import wire

_ANSWER_BEFORE = (
    b'{"id":"chatcmpl-bench","object":"chat.completion","created":1767225600,'
    b'"model":"bench:latest","system_fingerprint":"fp_bench","choices":[{"index":0,"message":'
    b'{"role":"assistant","content":"'
)
_ANSWER_AFTER = (
    b'"},"finish_reason":"stop"}],"usage":{"prompt_tokens":26,"completion_tokens":40,'
    b'"total_tokens":66}}\n'
)
KEY = "sk-" + "5bc7e2a90d41f836" * 4
"""Sent with each request, because one router does not start without a key."""

ANSWER_HEAD = wire.ANSWER_HEAD
STREAM_HEAD = wire.STREAM_HEAD.replace(b"application/x-ndjson", b"text/event-stream")

_EVENT_BEFORE = (
    b'data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1767225600,'
    b'"model":"bench:latest","system_fingerprint":"fp_bench","choices":[{"index":0,"delta":'
)
_CONTENT_BEFORE = _EVENT_BEFORE + b'{"role":"assistant","content":"'
_CONTENT_AFTER = b'"},"finish_reason":null}]}\n\n'
_LAST = _EVENT_BEFORE + b'{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'

_MARK = re.compile(rb"(?<!\d)(\d{12})(\d{5})(\d{6})(?!\d)")


def request(order: wire.Order, port: int, model: str = wire.MODEL) -> bytes:
    """The order as a chat completion, padded to 1 KB."""
    stream = "true" if order.chunks else "false"
    before = (
        f'{{"model":"{model}","stream":{stream},"temperature":0.5,'
        f'"messages":[{{"role":"user","content":"{wire.order_text(order)}'
    )
    body = (before + "x" * max(0, wire.BODY_BYTES - len(before) - 4) + '"}]}').encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUser-Agent: bench\r\n"
        f"Accept: */*\r\nContent-Type: application/json\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def answer(order_id: int, crc: int = 0) -> bytes:
    """1 KB, as `wire.answer`."""
    text = b"%05d %08x " % (order_id, crc)
    filled = wire.BODY_BYTES - len(_ANSWER_BEFORE) - len(_ANSWER_AFTER)
    return _ANSWER_BEFORE + text.ljust(filled, b"y") + _ANSWER_AFTER


def chunk(sent_us: int, order_id: int, number: int) -> bytes:
    """One event in its HTTP chunk."""
    return padded_chunk(sent_us, order_id, number, 0)


def padded_chunk(sent_us: int, order_id: int, number: int, pad: int) -> bytes:
    mark = b"%012d%05d%06d" % (sent_us, order_id, number)
    event = _CONTENT_BEFORE + mark + b"z" * pad + _CONTENT_AFTER
    return b"%x\r\n%s\r\n" % (len(event), event)


def final_chunk(chunks: int) -> bytes:
    """The events that end a stream, in their chunk, and the end of the answer."""
    _ = chunks
    return b"%x\r\n%s\r\n0\r\n\r\n" % (len(_LAST), _LAST)


def marks(body: bytes) -> list[tuple[int, int, int, int]]:
    """Moment, id, number and end of every marker in a body of any dialect."""
    found = _MARK.finditer(body)
    return [(int(one[1]), int(one[2]), int(one[3]), one.end()) for one in found]
