"""Forms of a request head that are not the usual one, told apart before anybody parses them.

As Go's server, and so a real Ollama, does: lines may end in a bare line feed, and a first line that
is none of HTTP/1 is refused as soon as it is there. A head that mixes both ends of lines is for the
parser to refuse: two readers could see two different requests in it.
"""

import re

from ollama_herd.api.errors import HTTP_VERSION, NO_REQUEST, ApiError

_EMPTY_LINE = re.compile(rb"\n\r?\n")
_VERSION = re.compile(rb"[^\r\n]* HTTP/([0-9])\.[0-9]\r?\n")


def is_over(data: bytes) -> bool:
    """Whether more bytes would change nothing: the head has an end, or its first line is none."""
    return _EMPTY_LINE.search(data) is not None or unreadable(data) is not None


def unreadable(data: bytes) -> ApiError | None:
    """Why the first line of `data` is none of HTTP/1; None when it is one, or not there yet."""
    if b"\n" not in data or not data[:1].isalpha():
        return None
    version = _VERSION.match(data)
    if version is None:
        return NO_REQUEST
    return None if version[1] == b"1" else HTTP_VERSION


def with_line_ends(data: bytes) -> bytes:
    """`data` with the ends of lines as HTTP has them, when all of its head's are bare line feeds;
    else `data` itself.
    """
    end = data.find(b"\n\n")
    head = data[:end]
    if end < 0 or b"\r" in head:
        return data
    return head.replace(b"\n", b"\r\n") + b"\r\n\r\n" + data[end + 2 :]
