"""Reads the bodies that the fast parser refuses and Ollama takes: other key case, bytes behind
the value, broken UTF-8, lone surrogates, unknown keys; and names what is wrong with the others
in Ollama's words.
"""

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

import msgspec

from ollama_herd.api import gojson
from ollama_herd.api.bodies import (
    Body,
    Options,
    first_byte,
    keep_alive_s,
    think_error,
    wrong_top_level,
    wrong_type,
)
from ollama_herd.api.dialects import DIALECTS
from ollama_herd.api.endpoints import Endpoint
from ollama_herd.api.errors import ApiError, bad_body, missing_body
from ollama_herd.core.request import Dialect

Members = dict[str, msgspec.Raw]

_MEMBERS = msgspec.json.Decoder(Members)
_TRAILING = re.compile(r"trailing characters \(byte (\d+)\)")
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"  # a pair: one character
    rb"|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)
_MAX_REPAIRS = 3
"""Cut what is behind the value, mend UTF-8, mend surrogates: each is needed once at most."""

_REFUSED_TYPES = {ord("t"): "bool", ord("f"): "bool", ord("["): "[]interface {}"}


class LenientBody(msgspec.Struct, frozen=True):
    """`fields` as the fast parser would give them, `body` as it goes to the engine."""

    fields: Body
    body: bytes


def read_leniently(endpoint: Endpoint, body: bytes) -> LenientBody | ApiError:
    """The fields of `body` as Ollama would understand them, or its refusal."""
    members = _members(endpoint, body)
    if isinstance(members, ApiError):
        return members
    infos = _field_infos(endpoint.dialect)
    known: Members = {}
    others: Members = {}
    for name, raw in members.items():
        key = _fold(name)
        if key not in infos:
            others[name] = raw
        elif key not in known or first_byte(raw) != ord("n"):  # null leaves a value as it was
            known[key] = raw
    problem = _type_problem(endpoint, members)
    if problem:
        return bad_body(problem)
    values = {infos[key].name: _value(infos[key], raw) for key, raw in known.items()}
    fields = DIALECTS[endpoint.dialect].body(**values)
    if len(known) + len(others) < len(members):
        # Two spellings of one key: the engine must read the value that we read.
        return LenientBody(fields, _joined({**others, **known}))
    return LenientBody(fields, body)


def read_members(endpoint: Endpoint, body: bytes) -> Members | ApiError:
    """The top level of any Ollama body by key in lower case, or Ollama's refusal of it.

    Of several spellings of a key the last one counts, as encoding/json has it.
    """
    members = _members(endpoint, body)
    if isinstance(members, ApiError):
        return members
    problem = _type_problem(endpoint, members)
    if problem:
        return bad_body(problem)
    folded: Members = {}
    for name, raw in members.items():
        key = _fold(name)
        if key not in folded or first_byte(raw) != ord("n"):  # null leaves a value as it was
            folded[key] = raw
    return folded


def _type_problem(endpoint: Endpoint, members: Members) -> str:
    """The one of several wrong values that encoding/json names: what Ollama's own types refuse
    ends the decoding, a wrong type is only noted, and the first is told at the end.
    """
    first = ""
    for name, raw in members.items():
        key = _fold(name)
        problem = _unmarshal_error(endpoint, key, raw)
        if problem:
            return problem
        first = first or wrong_type(endpoint, key, raw)
    return first


def without_member(endpoint: Endpoint, body: bytes, key: str) -> bytes | ApiError:
    """`body` without its top-level `key` in any spelling; all values byte by byte as they were."""
    members = _members(endpoint, body)
    if isinstance(members, ApiError):
        return members
    return _joined({name: raw for name, raw in members.items() if _fold(name) != key})


def with_num_ctx(endpoint: Endpoint, body: bytes, num_ctx: int) -> bytes:
    """`body` of Ollama's dialect with `num_ctx` among its options, where it names none; all other
    values byte by byte as they were. A body whose options are no object comes back unchanged, and
    one that names a `num_ctx` that is none (`"big"`): the engine has to refuse that.
    """
    members = _members(endpoint, body)
    if isinstance(members, ApiError):
        return body
    own = b'"num_ctx":%d' % num_ctx
    name = next((key for key in reversed(members) if _fold(key) == "options"), "options")
    raw = _valid_text(members.get(name, b"{}")).strip()
    if raw == b"null":
        raw = b"{}"
    try:
        named = _MEMBERS.decode(raw).get("num_ctx")
    except msgspec.DecodeError:
        return body
    if named is not None and first_byte(named) != ord("n"):
        return body
    # At the end: of two that are alike, one of them null, the last counts.
    inner = raw[1:-1].strip()
    options = b"{" + (inner + b"," if inner else b"") + own + b"}"
    return _joined({**members, name: msgspec.Raw(options)})


def _joined(members: Members) -> bytes:
    pairs = (msgspec.json.encode(name) + b":" + bytes(raw) for name, raw in members.items())
    return b"{" + b",".join(pairs) + b"}"


def _members(endpoint: Endpoint, body: bytes) -> Members | ApiError:
    """The top level of `body`, mended as encoding/json mends it."""
    for _ in range(_MAX_REPAIRS + 1):
        try:
            return _MEMBERS.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as problem:
            mended = _mended(body, problem)
        if mended is None or mended == body:
            break
        body = mended
    text = gojson.syntax_error(body)
    if text == "EOF":
        return missing_body(endpoint.dialect)
    if text:
        return bad_body(text)
    problem_text = wrong_top_level(endpoint, body.lstrip()[0])
    if problem_text:
        return bad_body(problem_text)
    if body.lstrip().startswith(b"null"):
        return {}
    return bad_body("exceeded max depth")


def _mended(body: bytes, problem: Exception) -> bytes | None:
    """`body` without what msgspec refuses and encoding/json does not; None: nothing to mend."""
    if isinstance(problem, UnicodeDecodeError):
        return body.decode("utf-8", "replace").encode()
    if isinstance(problem, msgspec.ValidationError | RecursionError):
        return None
    trailing = _TRAILING.search(str(problem))
    if trailing:
        return body[: int(trailing[1]) - 1]
    return _ESCAPE.sub(lambda found: b"\\ufffd" if found[1] else found[0], body)


@cache
def _field_infos(dialect: Dialect) -> Mapping[str, msgspec.structs.FieldInfo]:
    """The fields of a dialect by their key on the wire."""
    return {info.encode_name: info for info in msgspec.structs.fields(DIALECTS[dialect].body)}


def _fold(name: str) -> str:
    """A key as encoding/json compares it: without case; the long s and the Kelvin sign as well."""
    return name.replace("\u017f", "s").lower()


def _unmarshal_error(endpoint: Endpoint, key: str, raw: msgspec.Raw) -> str:
    """What Ollama's own types say to values that encoding/json leaves to them."""
    if endpoint.dialect is not Dialect.OLLAMA or key not in ("keep_alive", "think"):
        return ""
    if key == "think":
        return think_error(_anything(raw)) if endpoint.path in _THINKING else ""
    value = _anything(raw)
    if isinstance(value, str) or (isinstance(value, int | float) and not isinstance(value, bool)):
        result = keep_alive_s(value)
        return result if isinstance(result, str) else ""
    if value is None:
        return ""
    if first_byte(raw) in b"-0123456789":
        number = bytes(raw).decode("ascii", "replace")
        return f"json: cannot unmarshal number {number} into Go value of type float64"
    type_name = _REFUSED_TYPES.get(first_byte(raw), "map[string]interface {}")
    return f"Unsupported type: '{type_name}'"


_THINKING = frozenset({"/api/chat", "/api/generate"})


def _anything(raw: msgspec.Raw) -> Any:
    """The plain value; the raw value itself when it cannot be decoded, which no type accepts."""
    try:
        return msgspec.json.decode(_valid_text(raw))
    except (msgspec.MsgspecError, RecursionError):
        return raw


def _value(info: msgspec.structs.FieldInfo, raw: msgspec.Raw) -> Any:
    """`raw` as the field's type; as good as absent when it has another one."""
    if info.type is msgspec.Raw:
        return raw
    if info.name == "options":
        return _options(raw)
    try:
        return msgspec.json.decode(_valid_text(raw), type=info.type)
    except (msgspec.MsgspecError, RecursionError):
        return _whole_number(_anything(raw)) if info.type == int | None else info.default


def _valid_text(raw: msgspec.Raw | bytes) -> bytes:
    """The bytes of a raw value, which may hold what is no UTF-8."""
    return bytes(raw).decode("utf-8", "replace").encode()


def _options(raw: msgspec.Raw) -> Options | None:
    """The options of the right type; Ollama reads them all as floating point numbers."""
    plain = _anything(raw)
    if not isinstance(plain, dict):
        return None
    values: dict[str, Any] = {}
    for info in msgspec.structs.fields(Options):
        value = plain.get(info.encode_name)
        if info.name == "use_mmap":
            values[info.name] = value if isinstance(value, bool) else None
        else:
            values[info.name] = _whole_number(value)
    return Options(**values)


def _whole_number(value: Any) -> int | None:
    """A number that has no fraction, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        return None
    return int(value)
