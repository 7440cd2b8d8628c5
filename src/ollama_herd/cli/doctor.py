"""`herd doctor`: the whole path from this machine's settings to the engines of its nodes."""

import socket
from collections.abc import Iterator
from typing import Annotated

from ollama_herd import __version__
from ollama_herd.api.fleet_lists import NodeEntry, NodeList
from ollama_herd.cli import findings, machine
from ollama_herd.cli.client import JsonOption, Router, RouterOption, host_here, url_of
from ollama_herd.cli.findings import Finding, critical, ok, warning
from ollama_herd.cli.options import setting
from ollama_herd.config import ConfigError, RouterSettings, load
from ollama_herd.core.node import NodeStatus

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def doctor(
    *,
    home: Annotated[str | None, setting(RouterSettings, "home", "FOLDER")] = None,
    router: RouterOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check this machine's router, the way to its nodes, and them. Ends with 1 when it is bad."""
    findings.report(_found(home, router), as_json=as_json)


def _found(home: str | None, router: str | None) -> Iterator[Finding]:
    try:
        settings = load(RouterSettings, {"home": home}).settings
    except ConfigError as error:
        yield critical("settings-invalid", str(error), "correct it")
        return
    yield ok("settings-valid", f"version {__version__}, settings of {settings.home} are valid")
    url = Router(router).url if router else url_of(settings)
    if router is None:
        yield from machine.home_findings(settings.home)
        yield from _listening(settings)
        yield from machine.firewall_findings(f"{settings.port}/tcp and 5353/udp")
    nodes = machine.asked_nodes(url, settings.home / "tls" / "ca.pem")
    if isinstance(nodes, Finding):
        yield nodes
        return
    advice = "restart the router after an upgrade"
    yield from machine.answer_findings(url, nodes, "command", advice)
    if settings.mdns and router is None:
        yield _announced()
    yield from _nodes(nodes)


def _listening(settings: RouterSettings) -> Iterator[Finding]:
    if settings.host in _LOOPBACK:
        yield warning(
            "listens-on-loopback",
            f"host is {settings.host}: only programs of this machine reach the router",
            "leave host out, or set it to an address of this machine",
        )
    host = host_here(settings)
    if machine.is_open(host, settings.port):
        return
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        socket.create_server((host, settings.port), family=family).close()
    except OSError as error:
        yield critical(
            "port-not-usable",
            f"port {settings.port} of {host} cannot be listened on: {error.strerror or error}",
            "choose another with --port or --host",
        )
        return
    yield ok("port-free", f"port {settings.port} is free")


def _announced() -> Finding:
    urls = machine.mdns_urls()
    if urls:
        return ok("mdns-works", f"routers announced on this network: {', '.join(urls)}")
    return warning(
        "mdns-silent",
        "no router is heard by mDNS",
        "let 5353/udp through, or start nodes with --router URL (Docker and VPNs carry no mDNS)",
    )


def _nodes(known: NodeList) -> Iterator[Finding]:
    if not known.nodes:
        yield critical("no-node", "no node has joined", "run 'herd-node' on a machine with Ollama")
        return
    for node in known.nodes:
        yield from _node(node)


def _node(node: NodeEntry) -> Iterator[Finding]:
    if node.status is NodeStatus.OFFLINE:
        yield warning(
            "node-offline",
            f"node {node.name} is offline",
            f"start herd-node there, or forget it: herd nodes forget {node.node_id}"
            if node.has_agent
            else "start its engine, or take it out of --engine (HERD_ENGINE, herd.toml)",
        )
        return
    if node.agent_version and node.agent_version != __version__:
        yield warning(
            "node-version-differs",
            f"node {node.name} runs version {node.agent_version}, not {__version__}",
            "upgrade the router first, then the nodes",
        )
    for engine in node.engines:
        if engine.error:
            yield critical(
                "engine-unreachable",
                f"{engine.kind.value} on {node.name}: {engine.error}",
                "start it, or run 'herd-node doctor' on that machine",
            )
    if not node.engines:
        yield critical(
            "node-without-engine",
            f"node {node.name} has no engine",
            "install or start Ollama there, or name another with --engine",
        )
    elif any(engine.error for engine in node.engines):
        return
    elif not any(engine.models for engine in node.engines):
        yield warning(
            "node-without-model",
            f"node {node.name} has no model",
            f"herd pull MODEL --node {node.name}",
        )
    else:
        count = sum(len(engine.models) for engine in node.engines)
        yield ok("node-serves", f"node {node.name} serves {count} model{'s' * (count > 1)}")
