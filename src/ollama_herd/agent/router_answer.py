"""What a router answers to a report, and why a report did not get through. Pure."""

import aiohttp
import msgspec

from ollama_herd.core.node import ReportReply

PATH = "/fleet/heartbeat"

_QUOTED_CHARS = 300


class _Error(msgspec.Struct):
    error: str


class ReportFailed(Exception):  # noqa: N818 - a router away is everyday life, not a defect
    """A report was not taken in. `is_refusal` when the router answered that it will not."""

    def __init__(self, reason: str, *, is_refusal: bool = False) -> None:
        super().__init__(reason)
        self.is_refusal = is_refusal


def read_reply(url: str, status: int, body: bytes) -> ReportReply:
    """The router's answer to a report. Raises ReportFailed for anything but a good one."""
    if status == 200:
        try:
            return msgspec.json.decode(body, type=ReportReply)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise ReportFailed(f"{url} is no router of a herd: it answers otherwise") from None
    if status in (404, 405):
        raise ReportFailed(f"{url} is no router of a herd: it has no {PATH}")
    reason = error_text(body)
    if status in (400, 401, 403):
        raise ReportFailed(f"the router at {url} refuses this node: {reason}", is_refusal=True)
    raise ReportFailed(f"the router at {url} answered {status}: {reason}; trying again")


def error_text(body: bytes) -> str:
    """The text of an error: of its JSON `error` where it is so made, else as it stands."""
    try:
        text = msgspec.json.decode(body, type=_Error).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        text = body.decode(errors="replace")
    return " ".join(text[:_QUOTED_CHARS].split()) or "no reason given"


def reason_of(error: Exception) -> str:
    """Why a connection failed, in a few words."""
    if isinstance(error, aiohttp.ClientConnectorError):
        error = error.os_error
    if isinstance(error, ConnectionRefusedError):
        return "nothing listens there"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
