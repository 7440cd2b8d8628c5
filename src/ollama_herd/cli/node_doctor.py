"""`herd-node doctor`: the engines of this machine, its agent, and the way to the router."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec

from ollama_herd import __version__
from ollama_herd.agent.errors import AgentError
from ollama_herd.agent.identity import IDENTITY_FILE, load_identity
from ollama_herd.api.fleet_lists import NodeEntry, NodeList
from ollama_herd.cli import findings, machine
from ollama_herd.cli.client import JsonOption, why
from ollama_herd.cli.findings import Finding, critical, ok, warning
from ollama_herd.cli.options import setting
from ollama_herd.config import (
    OLLAMA_PORT,
    ConfigError,
    NodeSettings,
    load,
)
from ollama_herd.core.node import NodeStatus
from ollama_herd.engines.address import parse_ollama_host

_START_OLLAMA = "start Ollama (ollama serve), or name the engine with --engine"


class _Version(msgspec.Struct):
    version: str


def node_doctor(
    *,
    home: Annotated[str | None, setting(NodeSettings, "home", "FOLDER")] = None,
    router: Annotated[str | None, setting(NodeSettings, "router", "URL")] = None,
    as_json: JsonOption = False,
) -> None:
    """Check this machine's engines, its agent and the router. Ends with 1 when it is bad."""
    findings.report(_found(home, router), as_json=as_json)


def _found(home: str | None, router: str | None) -> Iterator[Finding]:
    try:
        settings = load(NodeSettings, {"home": home, "router": router}).settings
    except ConfigError as error:
        yield critical("settings-invalid", str(error), "correct it")
        return
    yield ok("settings-valid", f"version {__version__}, settings of {settings.home} are valid")
    yield from machine.home_findings(settings.home)
    for url in settings.engine or (_usual_engine(),):
        yield _engine(url)
    yield from machine.firewall_findings(f"{settings.relay_port}/tcp and 5353/udp")
    urls = (settings.router,) if settings.router else machine.mdns_urls()
    if not urls:
        yield critical(
            "mdns-silent",
            "no router is heard by mDNS",
            "start 'herd' on a machine of this network, or let 5353/udp through; where there is no "
            "mDNS, name the router: herd-node --router URL, herd-node doctor --router URL",
        )
        return
    known = machine.asked_nodes(urls[0], settings.router_ca)
    if isinstance(known, Finding):
        yield known
        return
    advice = "upgrade the router first, then the nodes"
    yield from machine.answer_findings(urls[0], known, "agent", advice)
    yield from _self(settings.home, known)


def _usual_engine() -> str:
    address = parse_ollama_host(os.environ.get("OLLAMA_HOST", ""))
    return f"http://127.0.0.1:{OLLAMA_PORT}" if address is None else address.url


def _engine(url: str) -> Finding:
    try:
        status, body = machine.fetch(url, "/api/version")
        if status == 200:
            return ok("engine-answers", f"Ollama {_version(body)} answers at {url}")
        status, _ = machine.fetch(url, "/v1/models")
    except machine.FETCH_FAILURES as error:
        seen = f"no engine answers at {url} ({why(error)})"
        return critical("engine-unreachable", seen, _START_OLLAMA)
    if status == 200:
        return ok("engine-answers", f"an engine with the OpenAI dialect answers at {url}")
    return critical("engine-unknown", f"{url} answered {status}, as no engine does", _START_OLLAMA)


def _version(body: bytes) -> str:
    try:
        return msgspec.json.decode(body, type=_Version).version
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return "of unknown version"


def _self(home: Path, known: NodeList) -> Iterator[Finding]:
    """What the router knows of this node."""
    node = _own(home, known)
    if node is None:
        yield warning(
            "node-unknown", "the router does not know this node", "start 'herd-node' here"
        )
        return
    if node.status is NodeStatus.OFFLINE:
        yield critical(
            "node-offline",
            f"the router hears nothing of this node ({node.name})",
            "start 'herd-node' here, and look at its log",
        )
        return
    yield ok("node-reports", f"the router knows this node as {node.name}, {node.status.value}")
    if node.draining:
        yield warning(
            "node-drained",
            "this node is drained: it gets no requests",
            f"herd nodes undrain {node.name}",
        )
    for engine in node.engines:
        if engine.error:
            yield critical(
                "engine-refused",
                f"the router cannot use {engine.engine_id}: {engine.error}",
                _START_OLLAMA,
            )


def _own(home: Path, known: NodeList) -> NodeEntry | None:
    if not (home / IDENTITY_FILE).exists():  # looking must not make one
        return None
    try:
        node_id = load_identity(home).node_id
    except AgentError:
        return None
    return next((node for node in known.nodes if node.node_id == node_id), None)
