"""What the router sends to the relay ahead of a tunnel's bytes. Pure."""

import msgspec


class Head(msgspec.Struct, frozen=True):
    """The engine that is asked for, and the Authorization header as it came."""

    engine_id: str
    authorization: bytes


def parse_head(head: bytes) -> Head | tuple[int, str]:
    """Read `CONNECT <engine_id> HTTP/1.1` and its headers; else a status and what is wrong."""
    lines = head.split(b"\r\n")
    words = lines[0].split(b" ")
    if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
        return 400, "the first line is not one of HTTP/1.1"
    if words[0] != b"CONNECT":
        return 405, "this is the relay of a herd node; it only takes CONNECT from its router"
    authorization = b""
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        if not colon:
            return 400, "a header line has no colon"
        if name.strip().lower() == b"authorization":
            authorization = value.strip()
    return Head(words[1].decode("latin-1"), authorization)
