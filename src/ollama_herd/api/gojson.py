"""What Go's standard library says about JSON and durations, so that our refusals read like
Ollama's. Used only after the fast parser has refused a body; every loop here is bounded.

The words are those of encoding/json (scanner.go) and time.ParseDuration of Go 1.26, which
Ollama 0.33 is built with; recorded exchanges hold them.
"""

import enum
import json
import re

MAX_DEPTH = 10_000
"""Nesting that encoding/json accepts."""

MAX_TOKENS = 100_000
"""Tokens looked at to name an error (about 50 ms); a body whose error lies behind them is
refused with `UNNAMED`."""

UNNAMED = "invalid JSON"

_SPACE = re.compile(rb"[ \t\r\n]*")
_STRING = re.compile(rb'"[^"\\\x00-\x1f]*+(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*+)*+')
_NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_NUMBER_START = frozenset(b"-0123456789")
_LITERALS = {ord("t"): b"true", ord("f"): b"false", ord("n"): b"null"}
_ESCAPES = frozenset(b'"\\/bfnrtu')
_HEX = frozenset(b"0123456789abcdefABCDEF")
_QUOTE, _COMMA, _COLON = ord('"'), ord(","), ord(":")
_CLOSER = {ord("{"): ord("}"), ord("["): ord("]")}
_OBJECT_END = ord("}")


class _Wants(enum.Enum):
    """What may come next."""

    VALUE = enum.auto()
    FIRST = enum.auto()  # right behind an opening brace or bracket
    KEY = enum.auto()
    AFTER = enum.auto()  # behind a value: a comma or an end


class _Refused(Exception):  # noqa: N818 - a verdict about a body, not a fault of ours
    """Carries the words of a refusal out of a scanner."""


def syntax_error(body: bytes) -> str:
    """Why encoding/json refuses the first value in `body`; "" when it accepts it.

    Bytes behind the first value are ignored, as a json.Decoder does. An empty body is "EOF".
    """
    if not body.strip(b" \t\r\n"):
        return "EOF"
    try:
        _scan(body)
    except _Refused as refused:
        return str(refused)
    return ""


def _scan(body: bytes) -> None:
    closers = bytearray()  # of the objects and arrays that are open
    wants, place = _Wants.VALUE, 0
    for _ in range(MAX_TOKENS):
        place = _skip_space(body, place)
        mark = _at(body, place)
        if wants is _Wants.FIRST and mark != closers[-1]:
            wants = _next_member(closers)
        if wants is _Wants.KEY:
            wants, place = _Wants.VALUE, _key(body, place, mark)
        elif wants is _Wants.VALUE and mark in _CLOSER:
            closers.append(_CLOSER[mark])
            if len(closers) > MAX_DEPTH:
                raise _Refused("exceeded max depth")
            wants, place = _Wants.FIRST, place + 1
        elif wants is _Wants.VALUE:
            wants, place = _Wants.AFTER, _scalar(body, place, mark)
        else:
            wants, place = _after_member(closers, mark), place + 1
        if not closers and wants is _Wants.AFTER:
            return
    raise _Refused(UNNAMED)


def _after_member(closers: bytearray, mark: int) -> _Wants:
    """Takes the mark behind a member: the end of what holds it, or a comma."""
    if mark == closers[-1]:
        closers.pop()
        return _Wants.AFTER
    if mark == _COMMA:
        return _next_member(closers)
    if closers[-1] == _OBJECT_END:
        raise _unexpected(mark, "after object key:value pair")
    raise _unexpected(mark, "after array element")


def _next_member(closers: bytearray) -> _Wants:
    return _Wants.KEY if closers[-1] == _OBJECT_END else _Wants.VALUE


def _key(body: bytes, place: int, mark: int) -> int:
    """`place` behind the colon of a key."""
    if mark != _QUOTE:
        raise _unexpected(mark, "looking for beginning of object key string")
    place = _skip_space(body, _string(body, place))
    mark = _at(body, place)
    if mark != _COLON:
        raise _unexpected(mark, "after object key")
    return place + 1


def _scalar(body: bytes, place: int, mark: int) -> int:
    """`place` behind a string, number or literal."""
    if mark == _QUOTE:
        return _string(body, place)
    if mark in _LITERALS:
        return _literal(body, place, _LITERALS[mark])
    if mark in _NUMBER_START:
        return _number(body, place)
    raise _unexpected(mark, "looking for beginning of value")


def _string(body: bytes, place: int) -> int:
    found = _STRING.match(body, place)
    end = found.end() if found else place
    mark = _at(body, end)
    if mark == _QUOTE:
        return end + 1
    if mark != ord("\\"):
        raise _unexpected(mark, "in string literal")
    escape = _at(body, end + 1)
    if escape not in _ESCAPES:
        raise _unexpected(escape, "in string escape code")
    for digit_place in range(end + 2, end + 6):
        digit = _at(body, digit_place)
        if digit not in _HEX:
            raise _unexpected(digit, "in \\u hexadecimal character escape")
    raise AssertionError("the pattern takes every whole escape")


def _number(body: bytes, place: int) -> int:
    """Takes the longest number; what breaks off behind a sign, point or exponent is refused."""
    found = _NUMBER.match(body, place)
    if found is None:
        raise _unexpected(_at(body, place + 1), "in numeric literal")
    end = found.end()
    behind = body[end : end + 2]
    taken = found.group()
    if behind[:1] == b"." and b"." not in taken and not taken.lower().count(b"e"):
        raise _unexpected(_at(body, end + 1), "after decimal point in numeric literal")
    if behind[:1] in (b"e", b"E") and b"e" not in taken.lower():
        sign = 1 if behind[1:] in (b"+", b"-") else 0
        raise _unexpected(_at(body, end + 1 + sign), "in exponent of numeric literal")
    return end


def _literal(body: bytes, place: int, literal: bytes) -> int:
    for index in range(1, len(literal)):
        mark = _at(body, place + index)
        if mark != literal[index]:
            expecting = chr(literal[index])
            raise _unexpected(mark, f"in literal {literal.decode()} (expecting '{expecting}')")
    return place + len(literal)


def _skip_space(body: bytes, place: int) -> int:
    found = _SPACE.match(body, place)
    return found.end() if found else place


def _at(body: bytes, place: int) -> int:
    if place >= len(body):
        raise _Refused("unexpected EOF")
    return body[place]


def _unexpected(mark: int, where: str) -> _Refused:
    return _Refused(f"invalid character {_quoted_char(mark)} {where}")


_NAMED_CONTROLS = {7: "a", 8: "b", 9: "t", 10: "n", 11: "v", 12: "f", 13: "r"}


def _quoted_char(mark: int) -> str:
    """A byte as encoding/json quotes it: as the character of that number."""
    char = chr(mark)
    if char in "'\\":
        return f"'\\{char}'"
    if mark in _NAMED_CONTROLS:
        return f"'\\{_NAMED_CONTROLS[mark]}'"
    if char.isprintable():
        return f"'{char}'"
    return f"'\\x{mark:02x}'" if mark < 0x80 else f"'\\u{mark:04x}'"


_DURATION = re.compile(r"([0-9]*)(?:\.([0-9]*))?([^0-9.]*)")
_UNIT_NS = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,  # micro sign
    "μs": 10**3,  # Greek letter mu
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
MAX_DURATION_NS = 2**63 - 1
WHOLE_DIGITS = 19
FRACTION_DIGITS = 18
"""Digits that fit into 63 bits: more before the point is an overflow, behind it is nothing."""


def parse_duration(text: str) -> int | str:
    """time.ParseDuration: nanoseconds, or the text of its error."""
    unsigned = text[1:] if text[:1] in ("+", "-") else text
    try:
        total_ns = _duration_ns(unsigned)
    except _Refused as refused:
        return f"time: {refused} duration {_quoted_text(text)}"
    return -total_ns if text[0] == "-" else total_ns


def _duration_ns(text: str) -> int:
    if text == "0":
        return 0
    if not text:
        raise _Refused("invalid")
    total_ns, place = 0, 0
    while place < len(text):
        found = _DURATION.match(text, place)
        if found is None or not (found[1] or found[2]):
            raise _Refused("invalid")
        whole, fraction = found[1].lstrip("0"), (found[2] or "")[:FRACTION_DIGITS]
        if len(whole) > WHOLE_DIGITS or int(whole or 0) > MAX_DURATION_NS:
            raise _Refused("invalid")
        if not found[3]:
            raise _Refused("missing unit in")
        unit_ns = _UNIT_NS.get(found[3])
        if unit_ns is None:
            raise _Refused(f"unknown unit {_quoted_text(found[3])} in")
        total_ns += int(whole or 0) * unit_ns
        total_ns += int(int(fraction or 0) * (unit_ns / 10 ** len(fraction)))
        if total_ns > MAX_DURATION_NS:
            raise _Refused("invalid")
        place = found.end()
    return total_ns


def _quoted_text(text: str) -> str:
    """Text as package time quotes it: everything outside printable ASCII as bytes."""
    quoted = []
    for char in text:
        if char in '"\\':
            quoted.append("\\" + char)
        elif " " <= char <= "\x7f":
            quoted.append(char)
        else:
            quoted.extend(f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogatepass"))
    return '"' + "".join(quoted) + '"'


_HTML = str.maketrans(
    {char: f"\\u{ord(char):04x}" for char in ("<", ">", "&", "\N{LINE SEPARATOR}", "\u2029")}
)


def encode_string(text: str) -> str:
    """A JSON string as Go writes it: `<>&` and U+2028/9 escaped, other text as it is."""
    return json.dumps(text, ensure_ascii=False).translate(_HTML)


def escape_html(encoded: bytes) -> bytes:
    """A whole JSON value as Go writes it; these characters can stand only in its strings."""
    for plain, escaped in _HTML_BYTES:
        encoded = encoded.replace(plain, escaped)
    return encoded


_HTML_BYTES = tuple((chr(code).encode(), escape.encode()) for code, escape in _HTML.items())
