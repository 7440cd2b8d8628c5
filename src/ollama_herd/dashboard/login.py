"""Logging in to the dashboard with an API key: a form, a cookie, and the way out again."""

from typing import Protocol
from urllib.parse import parse_qs

import msgspec
from aiohttp import web

from ollama_herd.api.access import SESSION_COOKIE
from ollama_herd.dashboard.answers import json_answer, short_body

LOGIN = "/dashboard/login"

MAX_LOGIN_BYTES = 4096
"""A key has 60 characters."""


class Door(Protocol):
    """Who may look at the dashboard: anybody while the herd has no keys."""

    def log_in(self, key: str) -> str | None:
        """From a key to a session, None when the key is not good for the dashboard."""
        ...

    def name(self, request: web.Request) -> str:
        """Of the key that this request was let in with, "" where none is needed."""
        ...

    def lets_in(self, request: web.Request) -> bool:
        """Whether the request would be let in now; keys are revoked, and sessions end."""
        ...


class _Given(msgspec.Struct):
    key: str


class _Session(msgspec.Struct):
    key: str


class Login:
    """Sessions are good for `lasts_s` seconds."""

    def __init__(self, door: Door, lasts_s: float) -> None:
        self.door = door
        self._lasts_s = int(lasts_s)

    async def enter(self, request: web.Request) -> web.Response:
        """Log in: a form of the login page, or JSON `{"key": ...}`."""
        body = await short_body(request, MAX_LOGIN_BYTES)
        is_form = request.content_type == "application/x-www-form-urlencoded"
        session = self.door.log_in(_key_of(body, is_form=is_form))
        if session is None:
            if is_form:
                return _seen(f"{LOGIN}#wrong")
            reason = "this key does not open the dashboard: it needs the scope manage"
            return web.json_response({"error": reason, "code": "wrong_key"}, status=401)
        response = _seen("/dashboard") if is_form else web.json_response({"logged_in": True})
        response.set_cookie(
            SESSION_COOKIE,
            session,
            max_age=self._lasts_s,
            path="/",
            httponly=True,
            samesite="Strict",
            secure=request.secure,
        )
        return response

    async def session(self, request: web.Request) -> web.Response:
        """The name of the key that this browser is logged in with, "" where none is needed."""
        return json_answer(msgspec.json.encode(_Session(self.door.name(request))))

    async def leave(self, _request: web.Request) -> web.Response:
        """Log out: this browser forgets its session."""
        response = _seen(LOGIN)
        response.del_cookie(SESSION_COOKIE, path="/", httponly=True, samesite="Strict")
        return response


def _key_of(body: bytes, *, is_form: bool) -> str:
    if is_form:
        return parse_qs(body.decode("utf-8", "replace")).get("key", [""])[0]
    try:
        return msgspec.json.decode(body, type=_Given).key
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""


def _seen(where: str) -> web.Response:
    return web.Response(status=303, headers={"Location": where, "Cache-Control": "no-store"})
