"""Tells the router about this node, again and again, and finds the router anew when it is gone."""

import asyncio
import hashlib
import random
from collections.abc import Callable, Sequence
from typing import Protocol
from urllib.parse import urlsplit, urlunsplit

import aiohttp
import msgspec

from ollama_herd.agent.reach import address_towards, is_loopback, is_this_machine
from ollama_herd.agent.report import (
    About,
    Sections,
    backoff_s,
    build_goodbye,
    build_report,
)
from ollama_herd.agent.router_answer import PATH, ReportFailed, read_reply, reason_of
from ollama_herd.clock import monotonic_s, now_s
from ollama_herd.core.node import NodeReport, ReportReply
from ollama_herd.tasks import cancel_and_wait, spawn

SEND_TIMEOUT_S = 5.0
GOODBYE_TIMEOUT_S = 1.0

MAX_REPLY_BYTES = 65536

GIVE_UP_AFTER = 2
"""Failures in a row until another router is looked for; one may be a lost packet."""

SHORTEST_INTERVAL_S = 0.1
LONGEST_INTERVAL_S = 60.0
"""Bounds on what a router may ask for."""

NEWS_GAP_S = 0.25
"""News does not wait for the next heartbeat, but for this long, so that it comes together."""

PATIENCE_S = 5.0
"""How long to look for a router before saying what else can be done."""


class Routers(Protocol):
    """Knows where the router is: `discovery.RouterBrowser`, or FixedRouter."""

    async def next(self) -> str:
        """Wait for a URL to use from now on."""

    def give_up(self, url: str) -> None:
        """The router at `url` does not answer: choose again."""


class Keys(Protocol):
    """The node's own key, and the one to change to; the methods block (`identity.NodeKeys`)."""

    current: str

    def following(self) -> str:
        """The key to change to, "" for none."""

    def adopt(self, key: str) -> None:
        """The router knows the node by this one from now on. Raises OSError."""


class FixedRouter:
    """The router at a URL from the settings: there is no other choice."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._is_given = False

    async def next(self) -> str:
        if self._is_given:
            await asyncio.Event().wait()
        self._is_given = True
        return self._url

    def give_up(self, url: str) -> None:
        """Keep to it: it may come back."""


class Reporter:
    """`sections` gives what is to be said, at once; `seen_as` hears from which address."""

    def __init__(
        self,
        about: About,
        keys: Keys,
        *,
        join_key: str = "",
        routers: Routers,
        session: aiohttp.ClientSession,
        sections: Callable[[], Sections],
        seen_as: Callable[[str], None],
        say: Callable[[str], None],
    ) -> None:
        self._about = about
        self._headers = {
            "Authorization": f"Bearer {keys.current}",
            "Content-Type": "application/json",
        }
        self._keys = keys
        self._following = ""
        if join_key:
            self._headers["X-Herd-Join"] = join_key
        self._routers = routers
        self._session = session
        self._sections = sections
        self._seen_as = seen_as
        self._say = say
        self._said = ""
        self._router = ""
        self._urls: Sequence[str] = ()  # of this router, the way in use first
        self._choosing: asyncio.Task[str] | None = None
        self._accepted: Sections | None = None
        self._is_known = False  # to the router, and so owed a goodbye
        self._seq = 0
        self._failures = 0
        self._news = asyncio.Event()

    def tell_news(self) -> None:
        """Something changed that the router should hear of soon."""
        self._news.set()

    async def run(self) -> None:
        """Report for ever."""
        try:
            await self._use(await self._first_choice())
            while True:
                started_s = monotonic_s()
                delay_s = await self._beat()
                chosen = await self._pause(started_s + delay_s)
                if chosen is not None:
                    await self._use(chosen)
        finally:
            await cancel_and_wait(self._choosing)

    async def goodbye(self) -> None:
        """Tell the router that this node leaves; it is fine when that does not get through."""
        if not self._is_known:
            return
        self._seq += 1
        try:
            await self._send(build_goodbye(self._about, self._seq), GOODBYE_TIMEOUT_S)
        except ReportFailed:
            return

    async def _first_choice(self) -> str:
        choosing = self._ask()
        await asyncio.wait([choosing], timeout=PATIENCE_S)
        if not choosing.done():
            self._tell(
                "looking for a router on this network; if it cannot be found by mDNS, name it "
                "with --router http://ROUTER:11435"
            )
        url = await choosing
        self._ask()
        return url

    def _ask(self) -> asyncio.Task[str]:
        self._choosing = spawn(self._routers.next(), name="choose a router")
        return self._choosing

    async def _use(self, url: str) -> None:
        """Report to another router, or to the same one at another address, from now on."""
        self._router = url
        self._urls = await ways_to(url)
        self._accepted = None
        self._is_known = False
        self._failures = 0
        self._seen_as(await address_towards(self._urls[0]))

    async def _beat(self) -> float:
        """Send one report; the seconds until the next."""
        await self._look_for_key()
        now = self._sections()
        self._seq += 1
        report = build_report(self._about, self._seq, now, self._accepted)
        was_everything = self._accepted is None
        # Until the answer is here nobody knows what the router holds.
        self._accepted = None
        try:
            reply = await self._send(report, SEND_TIMEOUT_S)
        except ReportFailed as failure:
            return await self._take_failure(failure)
        self._is_known = True
        await self._change_key(reply)
        interval_s = min(max(reply.interval_s, SHORTEST_INTERVAL_S), LONGEST_INTERVAL_S)
        if reply.resend:
            return interval_s if was_everything else 0.0
        if not reply.accepted:
            self._tell(f"the router at {self._urls[0]} did not take the report: {reply.reason}")
            return interval_s
        if self._failures:
            self._failures = 0
            self._seen_as(await address_towards(self._urls[0]))
        self._accepted = now
        self._tell(f"reporting to the router at {self._urls[0]}")
        return interval_s

    async def _look_for_key(self) -> None:
        """Tell the router of a key that follows; it is shown to nobody until the router agrees."""
        self._following = await asyncio.to_thread(self._keys.following)
        self._headers.pop("X-Herd-Next-Key", None)
        if self._following:
            digest = hashlib.sha256(self._following.encode()).hexdigest()
            self._headers["X-Herd-Next-Key"] = digest
        elif self._failures:
            self._show(self._keys.current)

    async def _change_key(self, reply: ReportReply) -> None:
        """Change to the key that follows when the router knows this node by it."""
        shown = self._headers["Authorization"]
        is_in_use = shown != f"Bearer {self._keys.current}"
        if not self._following or not (reply.is_key_changed or is_in_use):
            return
        try:
            await asyncio.to_thread(self._keys.adopt, self._following)
        except OSError as error:
            self._tell(f"the new key is in use and cannot be kept ({error.strerror}); trying again")
        else:
            self._say("this node has changed its key")
        self._show(self._following)
        self._following = ""

    def _show(self, key: str) -> None:
        self._headers["Authorization"] = f"Bearer {key}"

    async def _take_failure(self, failure: ReportFailed) -> float:
        self._failures += 1
        if failure.is_refusal and self._following:
            # The router may have taken the new key, and its answer was lost: try that one, too.
            is_new = self._headers["Authorization"] != f"Bearer {self._keys.current}"
            self._show(self._keys.current if is_new else self._following)
        if not failure.is_refusal and len(self._urls) > 1:
            self._urls = (*self._urls[1:], self._urls[0])
            if self._failures == 1:
                return 0.0  # the other way to the same router
        self._tell(str(failure))
        if not failure.is_refusal and self._failures >= GIVE_UP_AFTER:
            self._routers.give_up(self._router)
        return backoff_s(self._failures, random.random())  # noqa: S311 - jitter, no secret

    async def _pause(self, until_s: float) -> str | None:
        """Wait for the time of the next heartbeat, for news, or for another choice of router.

        Returns the URL of another router when there is one.
        """
        news = None if self._failures else spawn(self._wait_for_news(), name="news")
        try:
            while True:
                choosing = self._choosing or self._ask()
                done, _ = await asyncio.wait(
                    [choosing, news] if news else [choosing],
                    timeout=max(0.0, until_s - monotonic_s()),
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if choosing not in done:
                    return None
                url = choosing.result()
                self._ask()
                if url != self._router:
                    return url
                # The same again: it was given up, but there is no other. The pause goes on.
        finally:
            await cancel_and_wait(news)
            self._news.clear()

    async def _wait_for_news(self) -> None:
        await self._news.wait()
        await asyncio.sleep(NEWS_GAP_S)

    async def _send(self, report: NodeReport, timeout_s: float) -> ReportReply:
        url = self._urls[0]
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._session.post(
                    url + PATH,
                    data=msgspec.json.encode(_dated(report)),
                    headers=self._headers,
                    allow_redirects=False,
                ) as response,
            ):
                body = b""
                while not response.content.at_eof() and len(body) < MAX_REPLY_BYTES:
                    body += await response.content.read(MAX_REPLY_BYTES - len(body))
                return read_reply(url, response.status, body)
        except TimeoutError:
            raise ReportFailed(
                f"the router at {self._router} does not answer; trying again"
            ) from None
        except (aiohttp.ClientError, OSError) as error:
            reason = reason_of(error)
            raise ReportFailed(
                f"the router at {self._router} cannot be reached ({reason}); "
                "see whether 'herd' runs there; trying again"
            ) from None

    def _tell(self, text: str) -> None:
        """Say it once, until there is something else to say."""
        if text != self._said:
            self._said = text
            self._say(text)


async def ways_to(url: str) -> Sequence[str]:
    """URLs of the one router, the best first.

    A router on this machine is best reached over loopback: it then sees this node there too and
    gets to the engines directly instead of through the relay.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme != "http" or is_loopback(host) or not await is_this_machine(host):
        return (url,)
    return (urlunsplit(parts._replace(netloc=f"127.0.0.1:{parts.port or 80}")), url)


def _dated(report: NodeReport) -> NodeReport:
    """With the time of its sending, by which the router sees whether clocks agree."""
    return msgspec.structs.replace(report, sent_at_ms=int(now_s() * 1e3))
