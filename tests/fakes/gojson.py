"""JSON as Go's encoding/json writes it, and its error texts, for the fake Ollama.

The texts are those in the recordings; the states are those of Go's scanner.
"""

import datetime as dt
import json
from typing import Any

_ESCAPES = str.maketrans(
    {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
)
_SPACE = " \t\r\n"
_LITERALS = {"t": "true", "f": "false", "n": "null"}


class GoJsonError(ValueError):
    """What Go's decoder says about a body."""


def dumps(value: object) -> bytes:
    """Compact, keys in the order given, `<>&` and U+2028/9 escaped, all other text raw."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.translate(_ESCAPES).encode()


def rfc3339_nano(seconds: float) -> str:
    """UTC with trailing zeros of the fraction left out, as Go's RFC3339Nano."""
    whole = dt.datetime.fromtimestamp(int(seconds), dt.UTC)
    nanos = round((seconds - int(seconds)) * 1e9)
    fraction = f".{nanos:09d}".rstrip("0").rstrip(".")
    return f"{whole:%Y-%m-%dT%H:%M:%S}{fraction}Z"


def decode_object(body: bytes) -> dict[str, Any]:
    """The first JSON value of `body`, keys folded to lower case, the last of equal keys winning.

    Bytes behind the first value are ignored, as Go's Decoder does. Raises GoJsonError.
    """
    text = body.decode("utf-8", "replace")
    end = _Scanner(text).value_end()
    value = json.loads(text[:end], object_pairs_hook=_folded, strict=False)
    if not isinstance(value, dict):
        raise GoJsonError(
            f"json: cannot unmarshal {kind_of(value)} into Go value of type api.ChatRequest"
        )
    return value


def _folded(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {key.lower(): value for key, value in pairs}


def kind_of(value: object) -> str:
    """What Go calls a JSON value in its error texts."""
    match value:
        case bool():
            return "bool"
        case int() | float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
        case dict():
            return "object"
        case _:
            return "null"


class _Scanner:
    """Finds the end of the first JSON value, or says what Go says of the first bad character."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def value_end(self) -> int:
        self._value("looking for beginning of value")
        return self._at

    def _peek(self) -> str:
        while self._at < len(self._text) and self._text[self._at] in _SPACE:
            self._at += 1
        if self._at >= len(self._text):
            raise GoJsonError("unexpected EOF")
        return self._text[self._at]

    def _bad(self, context: str) -> GoJsonError:
        return GoJsonError(f"invalid character {_quoted(self._text[self._at])} {context}")

    def _value(self, context: str) -> None:
        first = self._peek()
        if first == "{":
            self._object()
        elif first == "[":
            self._array()
        elif first == '"':
            self._string()
        elif first in _LITERALS:
            self._literal(_LITERALS[first])
        elif first == "-" or first.isdigit():
            self._number()
        else:
            raise self._bad(context)

    def _object(self) -> None:
        self._at += 1
        is_empty = self._peek() == "}"
        while not is_empty:
            if self._peek() != '"':
                raise self._bad("looking for beginning of object key string")
            self._string()
            if self._peek() != ":":
                raise self._bad("after object key")
            self._at += 1
            self._value("looking for beginning of value")
            if self._peek() == "}":
                break
            if self._peek() != ",":
                raise self._bad("after object key:value pair")
            self._at += 1
        self._at += 1

    def _array(self) -> None:
        self._at += 1
        is_empty = self._peek() == "]"
        while not is_empty:
            self._value("looking for beginning of value")
            if self._peek() == "]":
                break
            if self._peek() != ",":
                raise self._bad("after array element")
            self._at += 1
        self._at += 1

    def _string(self) -> None:
        self._at += 1
        while True:
            if self._at >= len(self._text):
                raise GoJsonError("unexpected EOF")
            char = self._text[self._at]
            if char == '"':
                break
            if char == "\\":
                self._at += 1
            elif char < " ":
                raise self._bad("in string literal")
            self._at += 1
        self._at += 1

    def _literal(self, word: str) -> None:
        for char in word:
            if self._at >= len(self._text):
                raise GoJsonError("unexpected EOF")
            if self._text[self._at] != char:
                raise self._bad(f"in literal {word} (expecting {_quoted(char)})")
            self._at += 1

    def _number(self) -> None:
        start = self._at
        while self._at < len(self._text) and self._text[self._at] in "+-.eE0123456789":
            self._at += 1
        try:
            json.loads(self._text[start : self._at])
        except ValueError:
            self._at = min(self._at, len(self._text) - 1)
            raise self._bad("in numeric literal") from None


def _quoted(char: str) -> str:
    if char in "'\\":
        return f"'\\{char}'"
    if char < " ":
        return f"'\\x{ord(char):02x}'"
    return f"'{char}'"
