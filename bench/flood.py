"""Streams at full speed, in the pieces that the fake engine writes."""

from collections.abc import Iterator
from types import ModuleType

import wire
from wheel import now_us

_FLOOD_BLOCK_BYTES = 1024
"""A stream at full speed is written about eight chunks at a time: an engine that never waits
for its socket, yet not so much at once that a proxy sees whole streams."""
_PADDED_BLOCK_BYTES = 65536


def blocks(order: wire.Order, dialect: ModuleType) -> Iterator[bytes]:
    """The stream in the pieces that it is written in."""
    block = bytearray(dialect.STREAM_HEAD)
    block_bytes = _PADDED_BLOCK_BYTES if order.pad else _FLOOD_BLOCK_BYTES
    for number in range(order.chunks):
        if order.pad:
            block += dialect.padded_chunk(now_us(), order.id, number, order.pad)
        else:
            block += dialect.chunk(now_us(), order.id, number)
        if len(block) >= block_bytes:
            yield bytes(block)
            block.clear()
    yield bytes(block) + dialect.final_chunk(order.chunks)
