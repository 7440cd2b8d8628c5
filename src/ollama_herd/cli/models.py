"""`herd models`: every model of the herd, and where it is."""

import typer

from ollama_herd.api.fleet_lists import ModelEntry, ModelList
from ollama_herd.cli import show
from ollama_herd.cli.client import JsonOption, Router, RouterOption


def models(*, router: RouterOption = None, as_json: JsonOption = False) -> None:
    """List the models, what each is for, the nodes that have it, and where it is loaded."""
    herd = Router(router)
    body = herd.get("/fleet/models")
    if as_json:
        typer.echo(body)
        return
    found = herd.decoded(body, ModelList).models
    if not found:
        show.console().print(
            "no node has a model yet: 'herd status' shows the nodes, "
            "'herd pull llama3.2' downloads a model"
        )
        return
    table = show.table("model", "kind", "size>", "parameters", "context>", "nodes", "in memory on")
    for entry in found:
        show.row(table, _row(entry))
    console = show.console()
    console.print(show.fitted(table, ("parameters", "kind"), console))


def _row(entry: ModelEntry) -> tuple[object, ...]:
    model = entry.model
    return (
        model.name,
        entry.kind,
        show.size(model.size_bytes) if model.size_bytes else "·",
        f"{model.parameter_size} {model.quantization}".strip() or "·",
        f"{model.context_length:,}" if model.context_length else "·",
        ", ".join(
            place.node
            + ("" if place.usable else " (not now)")
            + (" (another digest)" if place.digest_differs else "")
            for place in entry.places
        ),
        ", ".join(place.node for place in entry.places if place.loaded is not None) or "·",
    )
