"""Who may do what: API keys with their limits, join keys, decisions about nodes."""

import enum
import math
from fnmatch import fnmatchcase

import msgspec

from ollama_herd.core.names import canonical_name
from ollama_herd.core.request import Priority

MINUTE_S = 60.0


class Scope(enum.IntEnum):
    """What a key may do; each one includes those before it."""

    INFERENCE = 1  # ask models, and see which there are
    MANAGE = 2  # pull, create, copy, delete models; see nodes, requests and trends
    ADMIN = 3  # change nodes and settings


class ApiKey(msgspec.Struct, frozen=True, omit_defaults=True):
    """One key as it is kept: not the key itself, only its SHA-256 in hex.

    `models` are patterns (`llama3*`), () for all. A limit of 0 is none. `is_batch`: all its
    requests wait behind interactive ones. Times are seconds since 1970, `revoked_s` 0 for never.
    """

    key_id: str
    name: str
    key_hash: str
    scope: Scope = Scope.INFERENCE
    models: tuple[str, ...] = ()
    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    concurrency: int = 0
    is_batch: bool = False
    created_s: float = 0.0
    revoked_s: float = 0.0

    def may_use(self, model: str) -> bool:
        """Whether the key is good for a model as asked for; a pattern may leave the tag out."""
        if not self.models:
            return True
        name = canonical_name(model)
        base = name.rpartition(":")[0]
        return any(
            fnmatchcase(name, pattern) or fnmatchcase(base, pattern) for pattern in self.models
        )

    def priority(self, asked: Priority) -> Priority:
        return Priority.BATCH if self.is_batch else asked


class JoinKey(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a node that joins has to show, as its SHA-256 in hex. `until_s`: an old one that is good
    for a while yet; 0 for the one in use.
    """

    key_hash: str
    created_s: float = 0.0
    until_s: float = 0.0


class NodeRule(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the owner decided about a node. `name` is shown in place of its own, "" for that."""

    node_id: str
    is_banned: bool = False
    name: str = ""


class Access(msgspec.Struct, frozen=True):
    """All that was decided about who may do what."""

    api_keys: tuple[ApiKey, ...] = ()
    join_keys: tuple[JoinKey, ...] = ()
    nodes: tuple[NodeRule, ...] = ()


class Bucket:
    """So much a minute, at most a minute's worth at once; below zero is a debt to be waited for."""

    __slots__ = ("_level", "_per_minute", "_seen_s")

    def __init__(self, per_minute: float, now_s: float) -> None:
        self._per_minute = per_minute
        self._level = per_minute
        self._seen_s = now_s

    def wait_s(self, amount: float, now_s: float) -> float:
        """Seconds until `amount` may be taken, 0 for now. More than a minute's worth waits for a
        full bucket.
        """
        self._fill(now_s)
        lacking = min(amount, self._per_minute) - self._level
        return max(0.0, lacking * MINUTE_S / self._per_minute)

    def take(self, amount: float) -> None:
        """Take it, or give it back when it is negative."""
        self._level = min(self._per_minute, self._level - amount)

    def _fill(self, now_s: float) -> None:
        gained = (now_s - self._seen_s) * self._per_minute / MINUTE_S
        self._level = min(self._per_minute, self._level + max(0.0, gained))
        self._seen_s = now_s


class Excess(msgspec.Struct, frozen=True):
    """A limit of a key that is reached: which, how much, and when to come back."""

    limit: str  # name of the field of ApiKey
    allowed: int
    retry_after_s: int


class Spending:
    """What a key has used lately and is using now."""

    __slots__ = ("_in_flight", "_requests", "_tokens", "key")

    def __init__(self, key: ApiKey, now_s: float) -> None:
        self.key = key
        self._in_flight = 0
        self._set_limits(now_s)

    def _set_limits(self, now_s: float) -> None:
        key = self.key
        self._requests = Bucket(key.requests_per_minute, now_s) if key.requests_per_minute else None
        self._tokens = Bucket(key.tokens_per_minute, now_s) if key.tokens_per_minute else None

    def change(self, key: ApiKey, now_s: float) -> None:
        """The key's limits are others from now on; what runs goes on counting."""
        if key != self.key:
            self.key = key
            self._set_limits(now_s)

    def begin(self, prompt_tokens: int, now_s: float) -> Excess | None:
        """A request begins; None when it may, and then `end` must follow."""
        key = self.key
        if key.concurrency and self._in_flight >= key.concurrency:
            return Excess("concurrency", key.concurrency, 1)
        if self._requests is not None and (wait_s := self._requests.wait_s(1, now_s)):
            return Excess("requests_per_minute", key.requests_per_minute, math.ceil(wait_s))
        if self._tokens is not None:
            wait_s = self._tokens.wait_s(max(1, prompt_tokens), now_s)
            if wait_s:
                return Excess("tokens_per_minute", key.tokens_per_minute, math.ceil(wait_s))
            self._tokens.take(prompt_tokens)
        if self._requests is not None:
            self._requests.take(1)
        self._in_flight += 1
        return None

    def end(self, prompt_tokens: int, used_tokens: int | None) -> None:
        """It has ended: what was taken for its prompt becomes what it really used; None when that
        is not known, and then the prompt counts as estimated.
        """
        self._in_flight -= 1
        if self._tokens is not None and used_tokens is not None:
            self._tokens.take(used_tokens - prompt_tokens)
