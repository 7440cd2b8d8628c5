"""`herd bench`: how fast each model is on each node, measured; the router learns from it."""

from typing import Annotated, NamedTuple

import msgspec
import typer

from ollama_herd.api.fleet_lists import ModelEntry, ModelList
from ollama_herd.cli import show
from ollama_herd.cli.client import JsonOption, Refused, Router, RouterOption, YesOption
from ollama_herd.cli.process import fail
from ollama_herd.core.names import canonical_name

_TIMEOUT_S = 660.0
"""A little more than the router's own bound on a measurement."""


class _Work(NamedTuple):
    node: str
    node_id: str
    model: str


class _Measured(msgspec.Struct):
    load_ms: float | None = None
    prefill_tokens_s: float | None = None
    decode_tokens_s: float | None = None


def bench(
    *,
    model: Annotated[
        list[str] | None, typer.Option(metavar="MODEL", help="only this model; may repeat")
    ] = None,
    node: Annotated[
        list[str] | None, typer.Option(metavar="NODE", help="only this node; may repeat")
    ] = None,
    cold: Annotated[
        bool, typer.Option("--cold", metavar="", help="unload each model first, to time its load")
    ] = False,
    yes: YesOption = False,
    router: RouterOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure load, prefill and decode of each model on each node, one after the other."""
    herd = Router(router)
    work = _planned(herd.read("/fleet/models", ModelList).models, model or [], node or [])
    if not work:
        fail("there is nothing to measure: no Ollama of the herd has such a model")
    show.confirm(
        f"Measure {len(work)} models on {len({one.node for one in work})} nodes? "
        "What is not in memory is loaded, and may push out other models.",
        yes=yes,
    )
    failed = 0
    rows = show.table("node", "model", "load>", "prefill tokens/s>", "decode tokens/s>")
    for count, one in enumerate(work, 1):
        if not as_json:
            place = f"{show.clean(one.model)} on {show.clean(one.node)}"
            typer.echo(f"{count} of {len(work)}: {place}", err=True)
        found = _measured(herd, one, cold=cold)
        failed += isinstance(found, str)
        if as_json:
            facts = {"error": found} if isinstance(found, str) else msgspec.structs.asdict(found)
            typer.echo(msgspec.json.encode({"node": one.node, "model": one.model, **facts}))
        elif isinstance(found, str):
            show.row(rows, (one.node, one.model, show.text(found, "red"), "", ""))
        else:
            rates = (found.prefill_tokens_s, found.decode_tokens_s)
            shown = (f"{rate:,.1f}" if rate else "·" for rate in rates)
            show.row(rows, (one.node, one.model, show.ms(found.load_ms), *shown))
    if not as_json:
        show.console().print(rows)
    if failed:
        fail(f"{failed} of {len(work)} could not be measured")


def _planned(entries: tuple[ModelEntry, ...], models: list[str], nodes: list[str]) -> list[_Work]:
    """Node by node, so that a machine's models follow each other."""
    wanted = {canonical_name(name) for name in models}
    work = [
        _Work(place.node, place.node_id, entry.model.name)
        for entry in entries
        for place in entry.places
        if place.usable
        and not place.digest_differs
        and place.engine_kind == "ollama"
        and entry.model.capabilities != ("embedding",)
        and (not wanted or entry.model.name in wanted)
        and (not nodes or place.node in nodes or place.node_id in nodes)
    ]
    return sorted(dict.fromkeys(work))


def _measured(herd: Router, work: _Work, *, cold: bool) -> _Measured | str:
    """What was measured, or why nothing was."""
    asked = {"model": work.model, "node": work.node_id, "cold": cold}
    try:
        with herd.sent("POST", "/fleet/measure", asked, timeout_s=_TIMEOUT_S) as response:
            return herd.decoded(response.read(), _Measured)
    except Refused as refused:
        return str(refused)
