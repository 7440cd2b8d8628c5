"""Reading JSON from clients and engines as tolerantly as Go does, and the fields of a
request with the refusals of a real Ollama's decoder.

Keys match without regard to case, null means absent, and bytes behind the JSON value are ignored.
"""

import json
from typing import Any, Final

import msgspec

ENGINE_LACKS_FEATURE: Final = "engine_lacks_feature"
"""Code of a refusal that a node with a real Ollama would not have given."""


class RequestRefusedError(ValueError):
    """A request that gets an error instead of an answer."""

    def __init__(self, status: int, message: str, code: str = "invalid_request") -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code


def unsupported(what: str, instead: str) -> RequestRefusedError:
    """The refusal of something that only a real Ollama can do."""
    return RequestRefusedError(
        400,
        f"the engine that serves this model does not speak Ollama's API and cannot take {what}; "
        f"{instead}, or use a model that an Ollama node serves",
        ENGINE_LACKS_FEATURE,
    )


def tolerant_json(data: bytes) -> Any:
    """The first JSON value in `data`. Bad UTF-8 and lone surrogates become U+FFFD; the NaN and
    Infinity that servers written in Python may send become null.

    Raises `ValueError` when there is none.
    """
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        text = data.decode("utf-8", "replace").lstrip("\ufeff \t\r\n")
    try:
        value, _ = _DECODER.raw_decode(text)
        plain = json.dumps(value, ensure_ascii=False).encode("utf-16", "surrogatepass")
        return json.loads(plain.decode("utf-16", "replace"), parse_constant=lambda _: None)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


_DECODER = json.JSONDecoder(parse_constant=lambda _: None)


class Fields:
    """The fields of one object of a request; `struct` is what Go calls it in its errors.

    Each method raises `RequestRefusedError` (400) when the field has another type.
    """

    def __init__(self, values: dict[str, Any], struct: str) -> None:
        # Of keys that differ in case only, the last one holds.
        self._values = {key.lower(): value for key, value in values.items()}
        self._struct = struct

    def get(self, key: str) -> Any:
        """The field whatever its type, None when absent."""
        return self._values.get(key)

    def text(self, key: str) -> str:
        """A string, "" when absent."""
        value = self._values.get(key)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise self._wrong_type(value, key, "string")
        return value

    def truth(self, key: str, *, default: bool = False) -> bool:
        """A boolean."""
        value = self._values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self._wrong_type(value, key, "bool")
        return value

    def integer(self, key: str) -> int:
        """An integer, 0 when absent."""
        value = self._values.get(key)
        if value is None:
            return 0
        if isinstance(value, bool) or not isinstance(value, int):
            raise self._wrong_type(value, key, "int")
        return value

    def number(self, key: str) -> float | None:
        """A number, None when absent."""
        value = self._values.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise self._wrong_type(value, key, "float64")
        return value

    def listed(self, key: str, go_type: str) -> list[Any]:
        """An array, empty when absent."""
        value = self._values.get(key)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self._wrong_type(value, key, go_type)
        return value

    def mapping(self, key: str, go_type: str) -> dict[str, Any]:
        """An object as it came, empty when absent."""
        value = self._values.get(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self._wrong_type(value, key, go_type)
        return value

    def inner(self, value: Any, key: str, go_type: str) -> "Fields":
        """The fields of `value`, an element of the array `key`."""
        if not isinstance(value, dict):
            raise self._wrong_type(value, key, go_type)
        return Fields(value, f"{self._struct}.{key}")

    def _wrong_type(self, value: Any, key: str, go_type: str) -> RequestRefusedError:
        """The words of encoding/json, as in recordings 031 and 060 of Ollama 0.33."""
        kind = {bool: "bool", int: "number", float: "number", str: "string", list: "array"}
        found = kind.get(type(value), "object")
        field = f"{self._struct}.{key}"
        return RequestRefusedError(
            400, f"json: cannot unmarshal {found} into Go struct field {field} of type {go_type}"
        )


def read_fields(body: bytes, struct: str) -> Fields:
    """The fields of a request body. Raises `RequestRefusedError` (400)."""
    try:
        value = tolerant_json(body)
    except ValueError as error:
        raise RequestRefusedError(400, "the request body is not valid JSON") from error
    if not isinstance(value, dict):
        raise RequestRefusedError(400, "the request body must be a JSON object")
    return Fields(value, struct)
