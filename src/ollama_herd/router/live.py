"""Owns the settings of a running router: what they are, where from, and who changes them."""

import asyncio
from collections.abc import Callable, Mapping

import msgspec
import structlog

from ollama_herd.config import ConfigError, Loaded, Origin, RouterSettings, Source
from ollama_herd.config.live import LIVE, SettingRefused, changed, locked, overridden
from ollama_herd.store.errors import StoreError
from ollama_herd.store.settings import SettingChange, SettingStore

_log = structlog.get_logger(__name__)

FOLLOW_S = 3.0
"""How often it is looked whether another router on the same database has changed a setting: people
who change one look for its effect about so long."""

DASHBOARD = "dashboard"
"""Where a value comes from that was changed while the router ran."""


class SettingView(msgspec.Struct, frozen=True):
    """One setting as people see it. `configured` is its value without changes made here."""

    name: str
    value: object
    configured: object
    default: object
    source: str  # flag, env, file, default or DASHBOARD
    where: str
    help: str
    is_live: bool
    locked: str  # why it cannot be changed here, "" when it can


class LiveSettings:
    """`apply` puts changed settings into effect; it is called on the loop and never fails."""

    def __init__(
        self,
        configured: RouterSettings,
        origins: Mapping[str, Origin],
        store: SettingStore,
        kept: Mapping[str, str],
    ) -> None:
        """`kept` is what `store.load()` gave: JSON texts by name."""
        self._configured = configured
        self._origins = origins
        self._store = store
        values = {name: msgspec.json.decode(text) for name, text in kept.items() if _is_json(text)}
        self.current, ignored = overridden(configured, values, origins)
        self._changed = {name for name in values if name not in ignored}
        self._kept = dict(kept)
        self._apply: Callable[[RouterSettings], None] = lambda _settings: None
        self._changing = asyncio.Lock()
        for name, reason in ignored.items():
            _log.warning("a setting changed earlier does not count", setting=name, reason=reason)

    def on_change(self, apply: Callable[[RouterSettings], None]) -> None:
        self._apply = apply

    def view(self) -> list[SettingView]:
        """Every setting; those that can be changed first."""
        fields = RouterSettings.model_fields
        names = [*LIVE, *(name for name in fields if name not in LIVE)]
        return [self._view(name) for name in names]

    async def change(self, name: str, value: object, who: str) -> SettingView:
        """Check, keep and apply a value. Raises SettingRefused and StoreError; nothing has changed
        then.
        """
        async with self._changing:
            settings = changed(self.current, name, value, self._origins)
            await self._keep(name, msgspec.json.encode(getattr(settings, name)).decode(), who)
            self._changed.add(name)
            self._put(settings, name, who)
        return self._view(name)

    async def reset(self, name: str, who: str) -> SettingView:
        """Back to what is configured. Raises as `change` does."""
        async with self._changing:
            value = getattr(self._configured, name, None)
            settings = changed(self.current, name, value, self._origins)
            if name in self._changed:
                await self._keep(name, "", who)
                self._changed.discard(name)
                self._put(settings, name, who)
        return self._view(name)

    async def read_again(self, load: Callable[[], Loaded[RouterSettings]]) -> None:
        """Take what the settings file says now, as far as that needs no restart. The log names
        what changed; a file that cannot be used changes nothing. What was changed here stays.
        """
        try:
            configured, origins = await asyncio.to_thread(load)
        except ConfigError as error:
            _log.error("settings stay as they are", reason=str(error))
            return
        async with self._changing:
            different = [
                name
                for name in RouterSettings.model_fields
                if getattr(configured, name) != getattr(self._configured, name)
            ]
            taken = [name for name in different if name in LIVE and name not in self._changed]
            values = {name: getattr(self.current, name) for name in RouterSettings.model_fields}
            self._configured, self._origins = configured, origins
            self.current = RouterSettings(
                **{**values, **{name: getattr(configured, name) for name in taken}}
            )
            self._apply(self.current)
        waiting = [name for name in different if name not in LIVE]
        overruled = [name for name in different if name in self._changed]
        _log.info(
            "settings read again",
            changed=taken,
            **({"after_a_restart": waiting} if waiting else {}),
            **({"overruled_in_the_dashboard": overruled} if overruled else {}),
        )

    async def follow(self) -> None:
        """Take what other routers on the same database change, for ever."""
        while True:
            await asyncio.sleep(FOLLOW_S)
            await self.read_changes()

    async def read_changes(self) -> None:
        """Take what was changed in the database since the last look; the log names it. What holds
        stays while the database cannot be read (which `memory.py` tells).
        """
        async with self._changing:  # a change made here is not undone by what was read before it
            try:
                kept = await asyncio.to_thread(self._store.load)
            except StoreError:
                return
            if kept == self._kept:
                return
            values = {
                name: msgspec.json.decode(text) for name, text in kept.items() if _is_json(text)
            }
            own = {name: getattr(self.current, name) for name in RouterSettings.model_fields}
            back = {name: getattr(self._configured, name) for name in self._changed - values.keys()}
            settings, ignored = overridden(RouterSettings(**{**own, **back}), values, self._origins)
            self._kept, self._changed = kept, values.keys() - ignored.keys()
            taken = [name for name in LIVE if getattr(settings, name) != own[name]]
            if taken:
                self.current = settings
                self._apply(settings)
                _log.info("settings changed by another router", changed=taken)

    def changes(self, limit: int) -> list[SettingChange]:
        """Who changed what, newest first. Blocks. Raises StoreError."""
        return self._store.recent(limit)

    async def _keep(self, name: str, after: str, who: str) -> None:
        before = msgspec.json.encode(getattr(self.current, name)).decode()
        await asyncio.to_thread(self._store.keep, name, before, after, who)

    def _put(self, settings: RouterSettings, name: str, who: str) -> None:
        before = getattr(self.current, name)
        self.current = settings
        self._apply(settings)
        now = getattr(settings, name)
        _log.info("setting changed", setting=name, before=before, now=now, by=who)

    def _view(self, name: str) -> SettingView:
        field = RouterSettings.model_fields[name]
        origin = self._origins.get(name, Origin(Source.DEFAULT, ""))
        is_changed = name in self._changed
        is_secret = not field.repr
        return SettingView(
            name=name,
            value=_shown(getattr(self.current, name), is_secret=is_secret),
            configured=_shown(getattr(self._configured, name), is_secret=is_secret),
            default=_shown(field.default, is_secret=is_secret),
            source=DASHBOARD if is_changed else origin.source.value,
            where="" if is_changed else origin.where,
            help=field.description or "",
            is_live=name in LIVE,
            locked=locked(name, self._origins),
        )


def _shown(value: object, *, is_secret: bool) -> object:
    if is_secret and value:
        return "(secret)"
    if isinstance(value, bool | int | float | str) or value is None:
        return value
    return [str(item) for item in value] if isinstance(value, tuple | list) else str(value)


def _is_json(text: str) -> bool:
    try:
        msgspec.json.decode(text)
    except msgspec.DecodeError:
        return False
    return True


__all__ = ["LiveSettings", "SettingRefused", "SettingView"]
