"""What both doctors look at on a machine: disk, ports, firewall, the announcement, the clock."""

import asyncio
import http.client
import os
import shutil
import socket
import ssl
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from ollama_herd import __version__
from ollama_herd.api.fleet_lists import NodeList
from ollama_herd.cli.client import why
from ollama_herd.cli.findings import Finding, critical, ok, warning
from ollama_herd.cli.show import size, span
from ollama_herd.clock import now_s
from ollama_herd.config import API_KEY_VARIABLE

TIMEOUT_S = 3.0
"""For each thing that is asked: what takes longer is as good as broken."""

MDNS_S = 3.0
"""Answers to an mDNS question come within a second on any network that lets them through."""

LOW_DISK_BYTES = 2 * 10**9
FULL_DISK_BYTES = 10**8
"""A database that grows with each request, and a log, need some room."""

CLOCK_SKEW_S = 5.0
"""Clocks that are set by the network agree within a second; this leaves room for a slow answer."""

UFW, FIREWALLD = Path("/etc/ufw/ufw.conf"), Path("/run/firewalld")
"""What tells that one of the two usual firewalls of Linux is switched on, readable for all."""

_MOST_BYTES = 64 << 20


def home_findings(home: Path) -> Iterator[Finding]:
    """Whether the folder of all state can be written, and has room."""
    place = home
    while not place.exists() and place != place.parent:
        place = place.parent
    if not os.access(place, os.W_OK | os.X_OK):
        yield critical(
            "home-not-writable", f"{home} cannot be written", "mend its permissions, or use --home"
        )
        return
    yield ok("home-writable", f"{home} can be written")
    try:
        free = shutil.disk_usage(place).free
    except OSError as error:
        yield warning("disk-unknown", f"the disk of {home} does not tell its room: {error}", "")
        return
    if free < FULL_DISK_BYTES:
        yield critical("disk-full", f"{size(free)} are left on the disk of {home}", "make room")
    elif free < LOW_DISK_BYTES:
        yield warning("disk-low", f"{size(free)} are left on the disk of {home}", "make room")
    else:
        yield ok("disk-room", f"{size(free)} are free on the disk of {home}")


def firewall_findings(ports: str) -> Iterator[Finding]:
    """Which firewall of this machine may be in the way; its rules are not readable for all."""
    name = _firewall()
    if name:
        yield warning(
            "firewall-active", f"{name} is switched on here", f"let other machines reach {ports}"
        )
    else:
        yield ok("firewall-none-seen", "no firewall that we know is switched on here")


def _firewall() -> str:
    if sys.platform == "darwin" or sys.platform == "win32":
        return ""  # both ask by themselves when a program first listens
    else:  # a type checker follows platforms only so
        with suppress(OSError):
            if "ENABLED=yes" in UFW.read_text(encoding="utf-8"):
                return "ufw"
        return "firewalld" if FIREWALLD.exists() else ""


def is_open(host: str, port: int) -> bool:
    """Whether somebody accepts connections there."""
    try:
        socket.create_connection((host, port), timeout=TIMEOUT_S).close()
    except OSError:
        return False
    return True


def fetch(url: str, path: str, key: str = "", ca: Path | None = None) -> tuple[int, bytes]:
    """Status and body of a GET; over TLS a certificate of `ca` will do, or of whom the system
    trusts. Raises OSError or http.client.HTTPException.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port
    if parts.scheme == "https":
        context = ssl.create_default_context()
        if ca is not None and ca.is_file():
            context.load_verify_locations(ca)
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            host, port, timeout=TIMEOUT_S, context=context
        )
    else:
        connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {key}"} if key else {})
        response = connection.getresponse()
        return response.status, response.read(_MOST_BYTES)
    finally:
        connection.close()


FETCH_FAILURES = (OSError, http.client.HTTPException)


def asked_nodes(url: str, ca: Path | None = None) -> NodeList | Finding:
    """What the router at `url` knows of its nodes, else what is wrong with it."""
    try:
        status, body = fetch(url, "/fleet/nodes", os.environ.get(API_KEY_VARIABLE, ""), ca)
    except FETCH_FAILURES as error:
        return critical(
            "router-unreachable",
            f"no router answers at {url} ({why(error)})",
            "start 'herd' there; if it runs, let its port through the firewall of that machine",
        )
    if status in (401, 403):
        return warning(
            "router-wants-key",
            f"{url} answered {status}",
            f"run it again with {API_KEY_VARIABLE}=KEY before it; on the router's machine "
            "'herd keys create NAME --scope manage' makes one",
        )
    try:
        return msgspec.json.decode(body, type=NodeList)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return critical(
            "router-other-version",
            f"{url} answered {status}, not as a router of this version does",
            "look whether another program listens there, or upgrade the older one",
        )


def answer_findings(url: str, known: NodeList, who: str, advice: str) -> Iterator[Finding]:
    """Of a router that answers; `who` compares its version with the own one."""
    yield ok("router-answers", f"the router at {url} answers")
    if known.version and known.version != __version__:
        seen = f"the router is version {known.version}, this {who} {__version__}"
        yield warning("version-differs", seen, advice)
    yield clock_finding(known.time_s)


def clock_finding(router_time_s: float) -> Finding:
    """How far this clock is from the router's."""
    skew_s = abs(now_s() - router_time_s)
    if skew_s > CLOCK_SKEW_S:
        return warning(
            "clock-skew",
            f"this clock and the router's are {span(skew_s)} apart",
            "let both machines set their clocks by NTP; times in views are off until then",
        )
    return ok("clock-agrees", "this clock and the router's agree")


def mdns_urls() -> tuple[str, ...]:
    """The routers that announce themselves on this network."""
    return asyncio.run(_browse())


async def _browse() -> tuple[str, ...]:
    from ollama_herd.discovery import RouterBrowser  # noqa: PLC0415 - zeroconf only when used

    async with RouterBrowser() as browser:
        with suppress(TimeoutError):
            async with asyncio.timeout(MDNS_S):
                await browser.next()
        return browser.urls
