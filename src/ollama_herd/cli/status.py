"""`herd status`: nodes, models in memory and queues of a running herd, now."""

import typer
from rich.console import Console, Group, RenderableType

from ollama_herd.api.fleet_status import EngineView, FleetView, NodeView
from ollama_herd.cli import show
from ollama_herd.cli.client import JsonOption, Router, RouterOption
from ollama_herd.core.node import Vitals


def status(*, router: RouterOption = None, as_json: JsonOption = False) -> None:
    """Show the nodes, what they have in memory, and who runs and waits."""
    herd = Router(router)
    body = herd.get("/fleet/status")
    if as_json:
        typer.echo(body)
        return
    console = show.console()
    console.print(overview(herd.decoded(body, FleetView), herd.url, console))


def overview(fleet: FleetView, url: str, console: Console) -> RenderableType:
    """The whole of a fleet for a terminal."""
    queue = fleet.queue
    line = (
        f"{url}: {fleet.nodes_usable} of {fleet.nodes_total} nodes take requests, "
        f"{fleet.models} models, {queue.in_flight} running, {queue.waiting} waiting"
    )
    parts: list[RenderableType] = [show.text(line, "bold")]
    if not fleet.nodes:
        parts.append(show.text("no node yet: run 'herd-node' on a machine with Ollama"))
        return Group(*parts)
    nodes = show.table("node", "status", "memory>", "gpu memory>", "cpu>", "engines", "in memory")
    for node in sorted(fleet.nodes, key=lambda one: one.name):
        show.row(nodes, _node(node))
    gpus = any(node.vitals.gpus for node in fleet.nodes)
    spare = ("cpu", "engines") if gpus else ("gpu memory", "cpu", "engines")
    parts.append(show.fitted(nodes, spare, console))
    if queue.replicas:
        busy = show.table("model", "node", "running>", "slots>", "waiting>")
        names = {node.node_id: node.name for node in fleet.nodes}
        for one in queue.replicas:
            where = names.get(one.node_id, one.node_id)
            show.row(busy, (one.model, where, one.in_flight, one.slots, one.waiting))
        parts.append(busy)
    return Group(*parts)


def _node(node: NodeView) -> tuple[object, ...]:
    vitals = node.vitals
    loaded = [name for engine in node.engines for name in engine.loaded]
    return (
        node.name,
        show.node_status(node.status, vitals, draining=node.draining),
        _share(
            vitals.memory_total_bytes - vitals.memory_available_bytes, vitals.memory_total_bytes
        ),
        _gpu(vitals),
        f"{vitals.cpu_percent:.0f} %" if node.has_agent else "·",
        ", ".join(map(_engine, node.engines)) or "none",
        ", ".join(loaded) or "·",
    )


def _engine(engine: EngineView) -> str:
    if engine.error:
        return f"{engine.kind.value}: {engine.error}"
    return f"{engine.kind.value} {engine.version} ({len(engine.models)})"


def _gpu(vitals: Vitals) -> str:
    total = sum(gpu.memory_total_bytes for gpu in vitals.gpus)
    free = sum(gpu.memory_free_bytes for gpu in vitals.gpus)
    return _share(total - free, total)


def _share(used: float, total: float) -> str:
    return f"{show.size(used)} of {show.size(total)}" if total > 0 else "·"
