"""Puts the agent together and runs it. Nothing else knows all of its parts."""

import asyncio
import os
import platform
import secrets
import ssl
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack

import aiohttp
import msgspec
import structlog

from ollama_herd import __version__
from ollama_herd.agent.collect import Collector
from ollama_herd.agent.descriptors import allow_many
from ollama_herd.agent.engine_watch import (
    OWN_ENGINE,
    Engines,
    EngineWatch,
    Surroundings,
    engine_id,
)
from ollama_herd.agent.errors import AgentError
from ollama_herd.agent.identity import Identity, NodeKeys, load_identity, next_boot
from ollama_herd.agent.quiet import QuietHours
from ollama_herd.agent.reach import is_this_machine
from ollama_herd.agent.relay import Relay
from ollama_herd.agent.report import About, Sections
from ollama_herd.agent.reporter import FixedRouter, Reporter, Routers
from ollama_herd.agent.services.listener import Listener
from ollama_herd.agent.services.local import LocalService, Services
from ollama_herd.agent.services.painter import Painter, own_environment
from ollama_herd.agent.services.pictures import PictureSkill
from ollama_herd.agent.services.speech import SpeechSkill
from ollama_herd.clock import now_s
from ollama_herd.config import NodeSettings
from ollama_herd.core.node import EngineKind
from ollama_herd.core.request import Kind
from ollama_herd.discovery import RouterBrowser
from ollama_herd.engines.address import EngineAddress, parse_engine_url, parse_ollama_host
from ollama_herd.engines.media import Purpose
from ollama_herd.tasks import cancel_and_wait, spawn

_log = structlog.get_logger(__name__)

FIRST_LOOK_S = 4.0
"""How long the first report waits for engines: a little more than one hung engine takes."""

Say = Callable[[str], None]


async def run(
    settings: NodeSettings,
    *,
    on_event: Say | None = None,
    routers: Routers | None = None,
) -> None:
    """Report this machine and relay to its engines until cancelled; then say goodbye and return.

    `on_event` hears, a line at a time, what people want to know; without it that is logged.
    `routers` replaces the settings' router and discovery. Raises AgentError when the agent cannot
    start.
    """
    identity = load_identity(settings.home)
    boot = next_boot(settings.home, int(now_s() * 1000))
    allow_many()
    try:
        async with AsyncExitStack() as stack:
            agent = _Agent(settings, on_event or _log.info, identity, boot)
            await agent.start(stack, routers)
            await agent.run()
    except asyncio.CancelledError:
        # Asked to end, and ended: there is nothing left to cancel.
        task = asyncio.current_task()
        if task is not None:
            task.uncancel()


class _Agent:
    def __init__(self, settings: NodeSettings, say: Say, identity: Identity, boot: int) -> None:
        self._settings = settings
        self._say = say
        self._identity = identity
        self._boot = boot
        self._collector = Collector(settings.home)
        self._quiet = QuietHours(settings.quiet_hours, self._say)

    async def start(self, stack: AsyncExitStack, routers: Routers | None) -> None:
        """Start what others connect to, and look at what there is to report.

        What is started is closed by `stack`, the last first: goodbye, then the relay.
        """
        session = await stack.enter_async_context(_session())
        to_router = await stack.enter_async_context(_session(_trusting(self._settings)))
        around = Surroundings(session, self._settings.slots, self._say, self._tell_news)
        self._engines = Engines(await self._watches(around))
        self._services = Services(
            [] if not self._settings.services else local_services(self._settings, around)
        )
        stack.push_async_callback(self._services.close)
        relay = Relay(relay_key := secrets.token_urlsafe(32), self._find)
        relay_port = await relay.start(self._settings.relay_port)
        stack.push_async_callback(relay.close)
        stack.push_async_callback(self._engines.close)
        self._reporter = Reporter(
            About(
                node_id=self._identity.node_id,
                boot=self._boot,
                name=self._settings.name or platform.node() or self._identity.node_id[:8],
                agent_version=__version__,
                relay_port=relay_port,
                relay_key=relay_key,
            ),
            NodeKeys(self._settings.home, self._identity),
            join_key=self._settings.join_key,
            routers=routers or await self._routers(stack),
            session=to_router,
            sections=self._sections,
            seen_as=around.set_seen_as,
            say=self._say,
        )
        stack.push_async_callback(self._reporter.goodbye)

    async def run(self) -> None:
        """Runs until cancelled; a part that fails ends all of it."""
        self._engines.start()
        self._services.start()
        await asyncio.gather(
            self._collector.first(),
            self._engines.first(FIRST_LOOK_S),
            self._services.first(FIRST_LOOK_S),
        )
        parts = [
            spawn(self._collector.run(), name="collect"),
            spawn(self._reporter.run(), name="report"),
            *self._engines.tasks,
            *self._services.tasks,
        ]
        try:
            done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            for part in done:
                part.result()
        finally:
            await cancel_and_wait(*parts)

    async def _routers(self, stack: AsyncExitStack) -> Routers:
        url, is_tls_only = self._settings.router, self._settings.router_ca is not None
        if not url:
            return await stack.enter_async_context(RouterBrowser(is_tls_only=is_tls_only))
        if is_tls_only and not url.startswith("https://"):
            raise AgentError(
                f"--router-ca says by whose certificate to know the router, and {url} has none: "
                "name its https:// address"
            )
        return FixedRouter(url)

    async def _watches(self, around: Surroundings) -> list[EngineWatch]:
        media = [
            EngineWatch(address, around, purpose=purpose)
            for address, purpose in media_servers(self._settings)
        ]
        if self._settings.engine:
            engines = [EngineWatch(address, around) for address in distinct(self._settings.engine)]
            return engines + media
        address = await own_engine(os.environ.get("OLLAMA_HOST", ""), self._say)
        return [EngineWatch(address, around, fallback=OWN_ENGINE), *media]

    def _sections(self) -> Sections:
        return Sections(
            self._collector.platform(),
            msgspec.structs.replace(
                self._collector.vitals(),
                doing=self._services.doing(),
                quiet_until=self._quiet.until(),
            ),
            self._engines.reports() + self._services.reports(),
        )

    def _find(self, engine_id: str) -> EngineAddress | None:
        return self._engines.find(engine_id) or self._services.find(engine_id)

    def _tell_news(self) -> None:
        self._reporter.tell_news()


def distinct(urls: Iterable[str]) -> list[EngineAddress]:
    """The engines at `urls`, each once: `localhost` and `127.0.0.1` are the same."""
    found: dict[str, EngineAddress] = {}
    for url in urls:
        address = parse_engine_url(url)
        found.setdefault(engine_id(EngineKind.OLLAMA, address), address)
    return list(found.values())


def local_services(settings: NodeSettings, around: Surroundings) -> list[LocalService]:
    """What this machine may do beside its engines; what is not installed stays silent."""
    environment, within_s = own_environment(), settings.service_timeout_s
    skills = (
        PictureSkill(Painter(settings.home, within_s, environment)),
        SpeechSkill(Listener(within_s, environment), settings.home),
    )
    return [LocalService(skill, around.say, around.changed) for skill in skills]


def media_servers(settings: NodeSettings) -> list[tuple[EngineAddress, Purpose]]:
    """The servers for pictures and speech that the settings name, each with what it is for."""
    found: dict[tuple[Kind, EngineAddress], tuple[str, ...]] = {}
    for kind, servers in (
        (Kind.IMAGE, settings.image_engine),
        (Kind.SPEECH, settings.speech_engine),
    ):
        for server in servers:
            name, _, url = server.rpartition("=")
            place = (kind, parse_engine_url(url))
            found[place] = (*found.get(place, ()), *([name] if name else []))
    return [(address, Purpose(kind, names)) for (kind, address), names in found.items()]


async def own_engine(ollama_host: str, say: Say) -> EngineAddress:
    """Where the Ollama of this machine is.

    OLLAMA_HOST is for the server and for clients. Where it points to another machine it says
    nothing about the server here, and that one reports its engine itself.
    """
    address = parse_ollama_host(ollama_host)
    if address is not None and (address.is_loopback or await is_this_machine(address.host)):
        return address
    say(
        f"OLLAMA_HOST={ollama_host} is not this machine; using {OWN_ENGINE.netloc} instead "
        "(--engine URL makes this node speak for an engine elsewhere)"
    )
    return OWN_ENGINE


def _trusting(settings: NodeSettings) -> ssl.SSLContext | bool:
    """Whose certificates a router may have: of the given CA, else of those the system trusts."""
    if settings.router_ca is None:
        return True
    try:
        return ssl.create_default_context(cafile=settings.router_ca)
    except (OSError, ValueError) as error:
        raise AgentError(
            f"{settings.router_ca} is no CA file ({getattr(error, 'strerror', error)}): copy "
            "tls/ca.pem from the router's home and name it with --router-ca"
        ) from None


def _session(tls: ssl.SSLContext | bool = True) -> aiohttp.ClientSession:  # noqa: FBT001, FBT002
    """For engines and the router: both near, so no proxy, and names are looked up anew."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(use_dns_cache=False, ssl=tls),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": f"herd-node/{__version__}"},
        trust_env=False,
    )
