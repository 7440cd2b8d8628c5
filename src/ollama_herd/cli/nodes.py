"""`herd nodes`: list the machines, let one in, drain it, take it back, rename, ban or forget it."""

import hashlib
import secrets
from typing import Annotated
from urllib.parse import quote

import typer

from ollama_herd.api.fleet_lists import NodeEntry, NodeList
from ollama_herd.api.joining import Joining
from ollama_herd.cli import show
from ollama_herd.cli.client import JsonOption, Router, RouterOption, YesOption
from ollama_herd.cli.keys import HomeOption, opened_access
from ollama_herd.cli.lazy import Commands
from ollama_herd.cli.options import load_or_fail
from ollama_herd.clock import now_s
from ollama_herd.config import RouterSettings
from ollama_herd.core.access import JoinKey

app = Commands(help="List the nodes; let one in, drain, rename, ban or forget it.")

JOIN_KEYS_MOST = 50
"""Printed commands that are good at once; the oldest is dropped for a new one."""

NodeArgument = Annotated[str, typer.Argument(metavar="NODE", help="its name or id")]


@app.callback(invoke_without_command=True)
def nodes(
    context: typer.Context, *, router: RouterOption = None, as_json: JsonOption = False
) -> None:
    """List the nodes, or do something with one."""
    if context.invoked_subcommand is None:
        _show_all(router, as_json=as_json)


@app.command("list")
def list_nodes(*, router: RouterOption = None, as_json: JsonOption = False) -> None:
    """List the nodes with their engines."""
    _show_all(router, as_json=as_json)


@app.command()
def drain(node: NodeArgument, *, router: RouterOption = None, as_json: JsonOption = False) -> None:
    """Send no new requests to a node; those that run there end as they would."""
    _change(Router(router), node, "drain", as_json=as_json)


@app.command()
def undrain(
    node: NodeArgument, *, router: RouterOption = None, as_json: JsonOption = False
) -> None:
    """Let a drained node take requests again."""
    _change(Router(router), node, "undrain", as_json=as_json)


@app.command()
def forget(
    node: NodeArgument,
    *,
    yes: YesOption = False,
    router: RouterOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove a machine that is gone. Nothing on the machine itself is touched."""
    herd = Router(router)
    show.confirm(f"Forget node {node}?", yes=yes)
    herd.done("DELETE", f"/fleet/nodes/{quote(node, safe='')}")
    typer.echo('{"forgotten":true}' if as_json else f"{show.clean(node)} is forgotten")


@app.command()
def waiting(*, router: RouterOption = None, as_json: JsonOption = False) -> None:
    """Show which machines wait for approval, and whose reports were refused."""
    herd = Router(router)
    body = herd.get("/fleet/joining")
    if as_json:
        typer.echo(body)
        return
    found = herd.decoded(body, Joining)
    if not found.waiting:
        show.console().print("no machine waits to join")
    else:
        table = show.table("node", "id", "address")
        for one in found.waiting:
            show.row(table, (one.name, one.node_id, one.address))
        show.console().print(table)
    if found.refused_lately:
        table = show.table("refused because", "id", "address", "reports")
        for turned in found.refused_lately:
            show.row(table, (turned.code, turned.node_id, turned.address, turned.count))
        show.console().print(table)


@app.command()
def approve(node: NodeArgument, *, router: RouterOption = None) -> None:
    """Let a waiting machine join."""
    Router(router).done("POST", f"/fleet/nodes/{quote(node, safe='')}/approve")
    typer.echo(f"{show.clean(node)} may join")


@app.command()
def ban(node: NodeArgument, *, router: RouterOption = None) -> None:
    """Take a node out of the herd, and refuse its reports from now on."""
    Router(router).done("POST", f"/fleet/nodes/{quote(node, safe='')}/ban")
    typer.echo(f"{show.clean(node)} is banned")


@app.command()
def unban(node: NodeArgument, *, router: RouterOption = None) -> None:
    """Let a banned node report again; it is named by its id."""
    Router(router).done("POST", f"/fleet/nodes/{quote(node, safe='')}/unban")
    typer.echo(f"{show.clean(node)} may report again")


@app.command()
def rename(node: NodeArgument, name: str, *, router: RouterOption = None) -> None:
    """Give a node another name; "" gives it back its own."""
    Router(router).done("POST", f"/fleet/nodes/{quote(node, safe='')}/rename", {"name": name})
    typer.echo(f"{show.clean(node)} is called {show.clean(name)}" if name else "as it says itself")


@app.command()
def join(
    *,
    rotate: Annotated[
        bool,
        typer.Option("--rotate", metavar="", help="make every command printed before worthless"),
    ] = False,
    home: HomeOption = None,
) -> None:
    """Print the command that lets a machine join a router with --join key.

    Nodes that have joined need it no more: they have keys of their own.
    """
    settings = load_or_fail(RouterSettings, {"home": home}).settings
    key = f"join_{secrets.token_urlsafe(24)}"
    key_hash = hashlib.sha256(key.encode()).hexdigest()
    with opened_access(home) as store:
        if rotate:
            store.drop(JoinKey)
        known = sorted(store.load().join_keys, key=lambda one: one.created_s)
        for old in known[: max(0, len(known) + 1 - JOIN_KEYS_MOST)]:
            store.drop(JoinKey, old.key_hash[:16])
        store.put(key_hash[:16], JoinKey(key_hash, created_s=now_s()))
    scheme = "http" if settings.tls_cert is None else "https"
    ca = "" if settings.tls_cert is None else " --router-ca ca.pem"
    typer.echo(f"herd-node --router {scheme}://{_address()}:{settings.port}{ca} --join-key {key}")
    if settings.join != "key":
        typer.echo("The router asks for it when it is started with --join key.", err=True)


def _address() -> str:
    """Where a node will most likely reach this machine."""
    from ollama_herd.discovery.networks import (  # noqa: PLC0415 - loads zeroconf
        own_interfaces,
        shown_addresses,
    )

    return next(iter(shown_addresses(own_interfaces())), "THIS-MACHINE")


def _change(herd: Router, node: str, what: str, *, as_json: bool) -> None:
    body = herd.done("POST", f"/fleet/nodes/{quote(node, safe='')}/{what}")
    if as_json:
        typer.echo(body)
        return
    found = herd.decoded(body, NodeEntry)
    how = "gets no new requests" if found.draining else "takes requests"
    typer.echo(f"{show.clean(found.name)} {how}")


def _show_all(router: str | None, *, as_json: bool) -> None:
    herd = Router(router)
    body = herd.get("/fleet/nodes")
    if as_json:
        typer.echo(body)
        return
    found = herd.decoded(body, NodeList).nodes
    if not found:
        show.console().print("no node yet: run 'herd-node' on a machine with Ollama")
        return
    table = show.table("node", "status", "heard", "address", "system", "agent", "engines", "id")
    for node in found:
        show.row(table, _row(node))
    console = show.console()
    console.print(show.fitted(table, ("id", "agent", "system"), console))


def _row(node: NodeEntry) -> tuple[object, ...]:
    return (
        node.name,
        show.node_status(node.status, node.vitals, draining=node.draining),
        f"{show.span(max(0.0, node.last_report_age_s))} ago",
        node.address,
        f"{node.platform.system} {node.platform.machine}".strip() or "·",
        node.agent_version or ("·" if node.has_agent else "none"),
        ", ".join(f"{e.kind.value} {e.error or e.version}".strip() for e in node.engines) or "none",
        node.node_id,
    )
