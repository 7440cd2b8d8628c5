"""`herd nodes`: list the machines; drain one, take it back, forget one that is gone."""

from typing import Annotated
from urllib.parse import quote

import typer

from ollama_herd.api.fleet_lists import NodeEntry, NodeList
from ollama_herd.cli import show
from ollama_herd.cli.client import JsonOption, Router, RouterOption, YesOption

app = typer.Typer(
    help="List the nodes; drain, undrain or forget one.",
    add_completion=False,
    pretty_exceptions_enable=False,
)

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
    show.console().print(table)


def _row(node: NodeEntry) -> tuple[object, ...]:
    return (
        node.name,
        "draining" if node.draining else node.status.value,
        f"{show.span(max(0.0, node.last_report_age_s))} ago",
        node.address,
        f"{node.platform.system} {node.platform.machine}".strip() or "·",
        node.agent_version or "·",
        ", ".join(f"{e.kind.value} {e.error or e.version}".strip() for e in node.engines) or "none",
        node.node_id,
    )
