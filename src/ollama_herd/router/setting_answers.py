"""Settings as the dashboard asks for them, and changes with the name of who makes them."""

import msgspec
from aiohttp import web

from ollama_herd.api.errors import ApiError
from ollama_herd.dashboard.answers import RecordsUnavailable
from ollama_herd.dashboard.queries import BadField
from ollama_herd.router.keys import KeyRing
from ollama_herd.router.live import LiveSettings, SettingRefused, SettingView
from ollama_herd.store.errors import StoreError
from ollama_herd.store.settings import SettingChange


class SettingsAnswer(msgspec.Struct, frozen=True):
    """All settings; those that can be changed first."""

    settings: list[SettingView]


class SettingChangesAnswer(msgspec.Struct, frozen=True):
    """Changes, the newest first."""

    changes: list[SettingChange]


class SettingAnswers:
    """JSON in and out."""

    def __init__(self, live: LiveSettings, keys: KeyRing) -> None:
        self._live = live
        self._keys = keys

    def all(self) -> bytes:
        """Safe on the event loop."""
        return msgspec.json.encode(SettingsAnswer(self._live.view()))

    def changes(self, limit: int) -> bytes:
        """Blocks. Raises RecordsUnavailable."""
        try:
            return msgspec.json.encode(SettingChangesAnswer(self._live.changes(limit)))
        except StoreError as error:
            raise RecordsUnavailable(str(error)) from error

    async def change(self, name: str, value: object, request: web.Request) -> bytes:
        """Raises BadField and RecordsUnavailable."""
        try:
            return msgspec.json.encode(await self._live.change(name, value, self._who(request)))
        except SettingRefused as refused:
            raise BadField(refused.field[:80], str(refused)) from refused
        except StoreError as error:
            raise RecordsUnavailable(f"nothing was changed: {error}") from error

    async def reset(self, name: str, request: web.Request) -> bytes:
        """Raises BadField and RecordsUnavailable."""
        try:
            return msgspec.json.encode(await self._live.reset(name, self._who(request)))
        except SettingRefused as refused:
            raise BadField(refused.field[:80], str(refused)) from refused
        except StoreError as error:
            raise RecordsUnavailable(f"nothing was changed: {error}") from error

    def _who(self, request: web.Request) -> str:
        """The name of the key, else the address."""
        if self._keys.are_needed:
            headers = [(name.lower(), value) for name, value in request.raw_headers]
            caller = self._keys.caller(headers)
            if not isinstance(caller, ApiError):
                return f"{caller.key.name} at {request.remote}"
        return request.remote or "unknown"
