"""Where a model goes that no node has yet: room on the disk, fit in memory, role of the machine."""

import re
from collections.abc import Iterable

import msgspec

from ollama_herd.core import hardware as hw
from ollama_herd.core.node import Model, ModelDetails, Node

DISK_RESERVE_BYTES = 2 * 10**9
"""Left free: a machine with a full disk stops doing more than models."""

_PARAMETERS = re.compile(r"(?:^|[^a-z0-9.])((?:\d+x)?\d+(?:\.\d+)?[bm])(?:$|[^a-z0-9])")
_QUANTIZATION = re.compile(
    r"(?:^|[-_:.])((?:iq|q)\d[a-z0-9_]*|mxfp4|bf16|f?p?16|f?p?32)(?:$|[-.:])"
)
_FLOATS = {"fp16": "f16", "16": "f16", "p16": "f16", "fp32": "f32", "32": "f32", "p32": "f32"}
_PLAIN_QUANTIZATION = "q4"
"""What Ollama's library gives a name without a quantization."""


class Room(msgspec.Struct, frozen=True):
    """A node as a place for a model. `fits_fast`: in the memory that its accelerator works from.

    `disk_free_bytes` is None when the node does not tell.
    """

    node_id: str
    name: str
    has_disk: bool
    disk_free_bytes: int | None
    fits: bool
    fits_fast: bool
    memory_bytes: int


class Placement(msgspec.Struct, frozen=True):
    """`node_id` is "" when no node has room; `rooms` are all that were looked at, best first."""

    node_id: str
    needed_bytes: int
    rooms: tuple[Room, ...] = ()


def expected_bytes(name: str) -> int:
    """Size on disk of a model nobody has yet, from its name: `qwen3:8b-q8_0`, `gemma3:270m`."""
    lowered = name.lower()
    path, _, tag = lowered.rpartition("/")[2].partition(":")
    size = _PARAMETERS.search(tag) or _PARAMETERS.search(path)
    quantization = _QUANTIZATION.search(tag)
    text = quantization[1] if quantization else _PLAIN_QUANTIZATION
    details = ModelDetails(
        parameter_size=size[1] if size else "", quantization_level=_FLOATS.get(text, text)
    )
    return int(hw.scale_of(Model(name=name, details=details)).size_gb * hw.GB)


def place(nodes: Iterable[Node], size_bytes: int) -> Placement:
    """The node for a model of this size: where it fits into fast memory, else into memory; of
    those the smallest machine, so that big ones stay free for big models; then the emptiest disk.
    """
    rooms = sorted((_room(node, size_bytes) for node in nodes), key=_preference)
    best = rooms[0] if rooms and rooms[0].has_disk else None
    return Placement(best.node_id if best else "", size_bytes, tuple(rooms))


def _preference(room: Room) -> tuple[bool, bool, bool, int, int, str]:
    # Where it does not fit at all, the biggest machine comes nearest.
    memory = room.memory_bytes if room.fits else -room.memory_bytes
    return (
        not room.has_disk,
        not room.fits_fast,
        not room.fits,
        memory,
        -(room.disk_free_bytes or 0),
        room.node_id,
    )


def _room(node: Node, size_bytes: int) -> Room:
    vitals = node.vitals
    hardware = hw.hardware_of(node.platform, vitals)
    needed = hw.needed_bytes(size_bytes)
    fast = hardware.vram_bytes
    if hardware.compute is hw.Compute.APPLE:
        fast = hardware.memory_bytes
    total = hardware.memory_bytes + hardware.vram_bytes
    free = vitals.disk_free_bytes if vitals.disk_total_bytes else None
    return Room(
        node_id=node.node_id,
        name=node.name,
        has_disk=free is None or free >= size_bytes + DISK_RESERVE_BYTES,
        disk_free_bytes=free,
        fits=not hardware.memory_bytes or needed <= total,
        fits_fast=needed <= fast,
        memory_bytes=total,
    )
