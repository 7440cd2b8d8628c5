"""Which types Ollama's own server gives the fields of a body that it checks first: a wrong one is
refused in Go's words, before anything else is looked at.

From Ollama 0.33 (api/types.go, openai, anthropic), for the fields that routing reads.
"""

from typing import Final

import msgspec


class GoType(msgspec.Struct, frozen=True):
    """A field as encoding/json names it in an error; `first` are the bytes its values begin with.

    null is taken for every type and changes nothing.
    """

    name: str
    first: bytes


class GoBody(msgspec.Struct, frozen=True):
    """The Go struct that a body is read into: its name with the package, and fields by key."""

    name: str = ""
    fields: tuple[tuple[str, GoType], ...] = ()

    def field(self, key: str) -> GoType | None:
        """The type of a field, None for one that is not held to any."""
        return next((kind for name, kind in self.fields if name == key), None)


def go_body(name: str, /, **fields: GoType) -> GoBody:
    """`api.ChatRequest` with its fields."""
    return GoBody(name, tuple(fields.items()))


STRING: Final = GoType("string", b'"')
BOOL: Final = GoType("bool", b"tf")
INT: Final = GoType("int", b"-0123456789")
MAP: Final = GoType("map[string]interface {}", b"{")
DIGESTS: Final = GoType("map[string]string", b"{")


def list_of(kind: str) -> GoType:
    """A slice of `kind`."""
    return GoType(f"[]{kind}", b"[")
