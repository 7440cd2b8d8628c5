"""What a path needs, where a request shows its key, and what it hears when it may not."""

import re
from collections.abc import Iterable

from ollama_herd.api.endpoints import INFERENCE, MEDIA
from ollama_herd.api.errors import ApiError
from ollama_herd.core.access import Excess, Scope

SESSION_COOKIE = "herd_session"

_KEY = re.compile(rb"herd_([0-9a-f]{8})_[0-9A-Za-z_-]{20,200}")

_OPEN = frozenset(
    {
        "/",
        "/api/version",
        "/dashboard/assets/{name}",
        "/v1/images/files/{name}",  # the name is the key: an app shows it in a page
        "/dashboard/login",
        "/dashboard/logout",
        "/fleet/heartbeat",  # a node shows a key of its own
    }
)
"""Paths that need no key: they tell nothing, or ask for something else."""

_INFERENCE = frozenset(
    [row.path for row in (*INFERENCE.values(), *MEDIA.values())]
    + [f"/api/{name}" for name in ("tags", "ps", "show", "status", "me", "image-models")]
)


def needed_scope(method: str, route: str) -> Scope | None:
    """The scope that a route needs, None for none. `route` is its path as declared, with its
    `{names}`; "" when there is no such route. What is not known needs the most.
    """
    if route in _OPEN and (method in ("GET", "HEAD") or route.startswith(("/dashboard", "/fleet"))):
        return None
    if not route or route in _INFERENCE or route.startswith("/v1/"):
        return Scope.INFERENCE
    if route.startswith("/api/") or method in ("GET", "HEAD"):
        return Scope.MANAGE
    return Scope.ADMIN


def shown_key(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The key of a request, shown as `Authorization: Bearer` or `x-api-key`; b"" for none."""
    bearer = b""
    for name, value in headers:
        if name == b"x-api-key":
            return value.strip()
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            bearer = value[7:].strip()
    return bearer


def shown_session(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The session cookie of the dashboard, "" when there is none."""
    start = SESSION_COOKIE.encode() + b"="
    for name, value in headers:
        if name == b"cookie":
            for part in value.split(b";"):
                if part.strip().startswith(start):
                    return part.strip()[len(start) :].decode("latin-1")
    return ""


def key_id_of(key: bytes) -> str:
    """The public part of a key, "" when it is none of ours."""
    found = _KEY.fullmatch(key)
    return found.group(1).decode() if found else ""


# --- refusals ----------------------------------------------------------------------------------

NO_KEY = ApiError(
    401,
    "this herd asks for an API key: send it as 'Authorization: Bearer KEY' or 'x-api-key: KEY'; "
    "its owner makes one with 'herd keys create'",
    "no_key",
)

OWNER_ONLY = ApiError(
    403,
    "nodes and settings are changed from the router's own machine (127.0.0.1), or with an API key "
    "of the scope admin: 'herd keys create NAME --scope admin'",
    "owner_only",
)

UNKNOWN_KEY = ApiError(
    401,
    "this API key is not known here, or was revoked; ask the herd's owner for another",
    "unknown_key",
)

KEYS_UNREADABLE = ApiError(
    503,
    "this herd asks for API keys and cannot read its database now, so nobody can be let in; its "
    "log says why",
    "keys_unreadable",
    retry_after_s=5,
)


def scope_lacking(name: str, needed: Scope) -> ApiError:
    """The key is good, but not for this."""
    return ApiError(
        403,
        f"the API key '{name}' may not do this: it needs the scope {needed.name.lower()}; "
        f"'herd keys create NAME --scope {needed.name.lower()}' makes one",
        "scope_lacking",
    )


def model_forbidden(name: str, model: str) -> ApiError:
    """The key is for other models."""
    return ApiError(
        403, f"the API key '{name}' may not use model '{model[:200]}'", "model_forbidden"
    )


def over_limit(name: str, excess: Excess) -> ApiError:
    """A limit of the key is reached."""
    limit = excess.limit.replace("_", " ")
    return ApiError(
        429,
        f"the API key '{name}' has reached its limit of {excess.allowed} ({limit}); try again in "
        f"{excess.retry_after_s} s",
        f"key_{excess.limit}",
        retry_after_s=excess.retry_after_s,
    )
