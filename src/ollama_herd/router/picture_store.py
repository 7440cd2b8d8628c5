"""Pictures that a client wanted as a URL: kept in memory, for a while, within bounds."""

import secrets
from collections import OrderedDict

import msgspec

from ollama_herd.clock import monotonic_s

KEPT_S = 3600.0
"""As long as OpenAI keeps its own."""

MAX_BYTES = 256 * 2**20
MAX_PICTURES = 500

PATH = "/v1/images/files/"

_ENDINGS = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp"}


class KeptPicture(msgspec.Struct, frozen=True):
    """A picture, its content type, and until when it is kept (monotonic seconds)."""

    data: bytes
    content_type: str
    until_s: float


class PictureStore:
    """The oldest go first when there are too many or too large ones; nothing touches a disk."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, KeptPicture] = OrderedDict()
        self._bytes = 0

    def keep(self, data: bytes, content_type: str) -> str:
        """Keep a picture; the path where it is had. Its name cannot be guessed."""
        now_s = monotonic_s()
        name = f"{secrets.token_urlsafe(18)}.{_ENDINGS.get(content_type, 'bin')}"
        self._kept[name] = KeptPicture(data, content_type, now_s + KEPT_S)
        self._bytes += len(data)
        self.expire(now_s)
        return PATH + name

    def find(self, name: str) -> KeptPicture | None:
        self.expire(monotonic_s())
        return self._kept.get(name)

    def expire(self, now_s: float) -> None:
        """Let go what is too old or too much."""
        while self._kept:
            oldest = next(iter(self._kept.values()))
            if (
                oldest.until_s > now_s
                and self._bytes <= MAX_BYTES
                and len(self._kept) <= MAX_PICTURES
            ):
                return
            self._kept.popitem(last=False)
            self._bytes -= len(oldest.data)
