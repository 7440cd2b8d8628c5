"""Reads the bodies of the calls that manage models: show, pull, push, create, copy and delete.

What a real Ollama refuses before it does anything is refused here in its words; the herd's own
key `node` is taken out, every other byte goes to the engines as it came.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from ollama_herd.api.endpoints import Endpoint
from ollama_herd.api.errors import ApiError, is_model_name
from ollama_herd.api.gojson import encode_string
from ollama_herd.api.gotypes import BOOL, DIGESTS, STRING, GoType, go_body
from ollama_herd.api.lenient import Members, read_members, without_member
from ollama_herd.core.request import Dialect, Kind

_NAMED: Mapping[str, GoType] = {"model": STRING, "name": STRING}
_TRANSFER: Mapping[str, GoType] = {**_NAMED, "stream": BOOL, "insecure": BOOL}
_FILES = ("files", "adapters", "draft_files")

_CALLS = (
    ("/api/show", go_body("api.ShowRequest", **_NAMED, verbose=BOOL)),
    ("/api/delete", go_body("api.DeleteRequest", **_NAMED)),
    ("/api/copy", go_body("api.CopyRequest", source=STRING, destination=STRING)),
    ("/api/pull", go_body("api.PullRequest", **_TRANSFER)),
    ("/api/push", go_body("api.PushRequest", **_TRANSFER)),
    (
        "/api/create",
        go_body(
            "api.CreateRequest",
            **_NAMED,
            stream=BOOL,
            **{"from": STRING},
            **dict.fromkeys(_FILES, DIGESTS),
        ),
    ),
)
_ENDPOINTS = MappingProxyType(
    {path: Endpoint(path, Kind.GENERATE, Dialect.OLLAMA, go=go) for path, go in _CALLS}
)

_PLAIN_SHOW = frozenset({"model", "name", "verbose", "node"})
"""With any other key (`system`, `template`, `options`) an answer is not for everyone."""


class ModelBody(msgspec.Struct, frozen=True):
    """`model` is as asked (of copy: the source). `node` is where the caller wants it done, "" for
    the herd to choose. `digests` are the blobs a create needs. `is_plain` says that an answer of
    show is the same for everyone.
    """

    model: str
    body: bytes
    stream: bool = True
    node: str = ""
    destination: str = ""
    source: str = ""
    digests: tuple[str, ...] = ()
    is_plain: bool = False


def read_model_body(path: str, body: bytes) -> ModelBody | ApiError:
    """What a call of `path` asks for, or the refusal a real Ollama would give. Never raises."""
    endpoint = _ENDPOINTS[path]
    members = read_members(endpoint, body)
    if isinstance(members, ApiError):
        return members
    node = _text(members, "node")
    if "node" in members:
        stripped = without_member(endpoint, body, "node")
        if isinstance(stripped, ApiError):
            return stripped
        body = stripped
    named = _text(members, "source") if path == "/api/copy" else _name(members)
    parsed = ModelBody(
        model=named,
        body=body,
        stream=_plain(members.get("stream")) is not False,
        node=node,
        destination=_text(members, "destination"),
        source=_text(members, "from"),
        digests=_digests(members),
        is_plain=_plain(members.get("verbose")) is not True and members.keys() <= _PLAIN_SHOW,
    )
    return _refusal(path, parsed) or parsed


def _refusal(path: str, parsed: ModelBody) -> ApiError | None:
    model = parsed.model
    if path in ("/api/show", "/api/push") and not model:
        return _bad("model is required")
    if path == "/api/copy":
        for what, name in (("source", model), ("destination", parsed.destination)):
            if not is_model_name(name):
                return _bad(f"{what} {encode_string(name)} is invalid")
    elif path == "/api/delete":
        if not is_model_name(model):
            return _bad(f"name {encode_string(model)} is invalid")
    elif not is_model_name(model) and path != "/api/push":
        return _bad("invalid model name")
    return None


def _bad(message: str) -> ApiError:
    return ApiError(400, message, "bad_body")


def _name(members: Members) -> str:
    return _text(members, "model") or _text(members, "name")


def _text(members: Members, key: str) -> str:
    value = _plain(members.get(key))
    return value if isinstance(value, str) else ""


def _digests(members: Members) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for key in _FILES:
        value = _plain(members.get(key))
        if isinstance(value, Mapping):
            found.update(dict.fromkeys(d for d in value.values() if isinstance(d, str)))
    return tuple(found)


def _plain(raw: msgspec.Raw | None) -> Any:
    if raw is None:
        return None
    try:
        return msgspec.json.decode(bytes(raw).decode("utf-8", "replace"))
    except (msgspec.MsgspecError, RecursionError):
        return None
