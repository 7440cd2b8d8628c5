"""How a fake engine breaks an answer that is no stream: the faults of the middle, for one body."""

import asyncio

from tests.fakes.state import Fault
from tests.fakes.wire import Reply

NO_CHUNK = b"not a chunk size\r\n"
"""Where the framing of a chunked body should stand."""


async def break_whole(reply: Reply, fault: Fault, body: bytes, content_type: str) -> None:
    """Send half of the body, then do what the fault says."""
    half = body[: len(body) // 2]
    if fault is Fault.CUT_MID_STREAM:
        await reply.raw(_head(content_type, len(body)) + half)
        return
    reply.begin(200, content_type)
    await reply.chunk(half)
    if fault is Fault.STALL_MID_STREAM:
        await asyncio.Event().wait()
    elif fault is Fault.GARBAGE_MID_STREAM:
        await reply.raw(NO_CHUNK)
    else:
        await reply.end()


def _head(content_type: str, length: int) -> bytes:
    return (
        f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n"
    ).encode()
