"""`herd pin`, `herd unpin` and `herd pins`: models that a running router keeps loaded."""

from typing import Annotated
from urllib.parse import urlencode

import msgspec
import typer

from ollama_herd.cli import show
from ollama_herd.cli.client import JsonOption, Router, RouterOption

_PATH = "/fleet/pins"


class _Pin(msgspec.Struct):
    model: str
    node: str
    kept_on: str
    is_loaded: bool
    reason: str = ""


class _Pins(msgspec.Struct):
    pins: list[_Pin]


def pin(
    model: Annotated[str, typer.Argument(help="the model to keep loaded")],
    node: Annotated[str, typer.Argument(help="where; the router chooses when not given")] = "",
    *,
    router: RouterOption = None,
    as_json: JsonOption = False,
) -> None:
    """Keep a model loaded, and never unload it to make room. It has to be on a node's disk."""
    herd = Router(router)
    _print(herd.done("POST", _PATH, {"model": model, "node": node}), herd, as_json=as_json)


def unpin(
    model: Annotated[str, typer.Argument(help="the model that need not be kept any more")],
    node: Annotated[str, typer.Argument(help="only there; everywhere when not given")] = "",
    *,
    router: RouterOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a pinned model go as its engine usually does."""
    query = urlencode({"model": model, **({"node": node} if node else {})})
    herd = Router(router)
    _print(herd.done("DELETE", f"{_PATH}?{query}"), herd, as_json=as_json)


def pins(*, router: RouterOption = None, as_json: JsonOption = False) -> None:
    """Show the pinned models, where each is kept, and why one is not loaded."""
    herd = Router(router)
    _print(herd.get(_PATH), herd, as_json=as_json)


def _print(body: bytes, router: Router, *, as_json: bool) -> None:
    if as_json:
        typer.echo(body)
        return
    found = router.decoded(body, _Pins).pins
    console = show.console()
    if not found:
        console.print("no model is pinned; herd pin MODEL keeps one loaded")
        return
    table = show.table("model", "pinned to", "kept on", "state")
    for one in found:
        state = "loaded" if one.is_loaded else one.reason
        show.row(table, (one.model, one.node or "any node", one.kept_on or "-", state))
    console.print(table)
