"""Owns the API keys in use: who a request comes from, what that key may do, what it has used.

Without keys the herd is open and nothing here is asked but `are_needed`.
"""

import hashlib
import hmac
import secrets
from collections.abc import Callable, Iterable

import structlog

from ollama_herd.api.access import (
    KEYS_UNREADABLE,
    NO_KEY,
    UNKNOWN_KEY,
    key_id_of,
    model_forbidden,
    over_limit,
    scope_lacking,
    shown_key,
    shown_session,
)
from ollama_herd.api.errors import ApiError
from ollama_herd.api.parse import ParsedBody
from ollama_herd.clock import monotonic_s, now_s
from ollama_herd.core.access import ApiKey, Scope, Spending
from ollama_herd.core.request import Usage
from ollama_herd.router.reply import Headers

SESSION_S = 12 * 3600.0
"""How long a login to the dashboard lasts: a working day."""

_log = structlog.get_logger(__name__)


class Caller:
    """Who a request comes from: a key that is known and good for what is asked."""

    __slots__ = ("_spending",)

    def __init__(self, spending: Spending) -> None:
        self._spending = spending

    @property
    def key(self) -> ApiKey:
        return self._spending.key

    def begin(self, parsed: ParsedBody) -> "Ticket | ApiError":
        """Let one inference request in, or say why not."""
        key = self._spending.key
        for model in (parsed.model, *parsed.fallback_models):
            if not key.may_use(model):
                return model_forbidden(key.name, model)
        excess = self._spending.begin(parsed.prompt_tokens, monotonic_s())
        if excess is not None:
            return over_limit(key.name, excess)
        return Ticket(self._spending, parsed.prompt_tokens)


class Ticket:
    """One request that a key is good for, until `close`."""

    __slots__ = ("_prompt_tokens", "_spending")

    def __init__(self, spending: Spending, prompt_tokens: int) -> None:
        self._spending = spending
        self._prompt_tokens = prompt_tokens

    @property
    def key(self) -> ApiKey:
        return self._spending.key

    def close(self, usage: Usage | None) -> None:
        """The request has ended; `usage` is what an engine counted, None when none did."""
        used = None
        if usage is not None:
            used = (usage.prompt_tokens or 0) + (usage.output_tokens or 0)
        self._spending.end(self._prompt_tokens, used)


class KeyRing:
    """`replace` gives it the keys; every other method asks it. `are_needed`: there are keys."""

    def __init__(self, is_own_page: Callable[[str, str], bool]) -> None:
        """`is_own_page(origin, host)`: a session counts for no other page than ours."""
        self._is_own_page = is_own_page
        self._secret = secrets.token_bytes(32)
        self._spendings: dict[str, Spending] = {}
        self._are_unreadable = False
        self.are_needed = False

    def replace(self, keys: Iterable[ApiKey]) -> None:
        """These are all keys there are. A revoked one opens nothing, but keeps the door shut."""
        known = {key.key_id: key for key in keys}
        now = monotonic_s()
        was_needed, self.are_needed = self.are_needed, bool(known)
        self._are_unreadable = False
        if was_needed != self.are_needed:
            _log.info("API keys are asked for" if known else "no API keys any more: open to all")
        for key_id in self._spendings.keys() - known.keys():
            del self._spendings[key_id]
        for key_id, key in known.items():
            spending = self._spendings.get(key_id)
            if spending is None:
                self._spendings[key_id] = Spending(key, now)
            else:
                spending.change(key, now)

    def close(self) -> None:
        """There are keys, and they cannot be read: let nobody in until they can."""
        self.are_needed = self._are_unreadable = True

    def caller(self, headers: Headers, needed: Scope = Scope.INFERENCE) -> Caller | ApiError:
        """Who asks, by the key or else the session that the headers show."""
        if self._are_unreadable:
            return KEYS_UNREADABLE
        shown = shown_key(headers)
        if shown:
            spending = self._by_key(shown)
        else:
            session = shown_session(headers)
            if not session:
                return NO_KEY
            spending = self._by_session(session) if self._is_from_us(headers) else None
        if spending is None:
            return UNKNOWN_KEY
        key = spending.key
        if key.scope < needed:
            return scope_lacking(key.name, needed)
        return Caller(spending)

    def log_in(self, shown: str) -> str | None:
        """A session for who shows this key, None for one that opens no dashboard."""
        spending = self._by_key(shown.strip().encode("utf-8", "replace"))
        if spending is None or spending.key.scope < Scope.MANAGE:
            return None
        return self._session(spending.key.key_id, int(now_s() + SESSION_S))

    def _by_key(self, shown: bytes) -> Spending | None:
        """Found by the public part of the key; what is secret is compared in constant time."""
        spending = self._spendings.get(key_id_of(shown))
        held = spending.key.key_hash if spending is not None else _NO_HASH
        matches = hmac.compare_digest(hashlib.sha256(shown).hexdigest(), held)
        return spending if matches and spending is not None and not spending.key.revoked_s else None

    def _by_session(self, session: str) -> Spending | None:
        key_id, _, rest = session.partition(".")
        until = rest.partition(".")[0]
        if not until.isdecimal() or len(until) > 12 or int(until) < now_s():
            return None
        expected = self._session(key_id, int(until))
        if not hmac.compare_digest(session.encode(), expected.encode()):
            return None
        spending = self._spendings.get(key_id)
        return None if spending is None or spending.key.revoked_s else spending

    def _session(self, key_id: str, until_s: int) -> str:
        """Proves by itself who logged in until when; good while this process lives."""
        said = f"{key_id}.{until_s}"
        return f"{said}.{hmac.digest(self._secret, said.encode(), 'sha256').hex()}"

    def _is_from_us(self, headers: Headers) -> bool:
        origin = host = ""
        for name, value in headers:
            if name == b"origin":
                origin = value.decode("latin-1")
            elif name == b"host":
                host = value.decode("latin-1")
        return not origin or self._is_own_page(origin, host)


_NO_HASH = "0" * 64
