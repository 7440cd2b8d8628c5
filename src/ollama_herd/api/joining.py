"""Machines that want to be nodes, as `/fleet/joining` tells of them."""

import enum

import msgspec


class JoinMode(enum.StrEnum):
    """How a machine becomes a node; on the router's own machine always `auto`."""

    AUTO = "auto"  # every machine of a private network
    KEY = "key"  # who shows the join key
    APPROVE = "approve"  # who the owner approves


class Turned(msgspec.Struct, frozen=True):
    """Reports of one source that were refused for one reason."""

    code: str
    node_id: str
    address: str
    count: int
    last_s: float


class Waiting(msgspec.Struct, frozen=True):
    """A machine that asks to be a node. Times are seconds since 1970."""

    node_id: str
    name: str
    address: str
    first_s: float
    last_s: float


class Joining(msgspec.Struct, frozen=True):
    """The answer of `/fleet/joining`. `refused` counts by reason, since the start."""

    mode: JoinMode
    waiting: tuple[Waiting, ...]
    refused: dict[str, int]
    refused_lately: tuple[Turned, ...]
