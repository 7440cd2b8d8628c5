"""`herd whatif`: the router's own traffic on its own nodes, as they are or as they might be."""

from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from ollama_herd.cli import show
from ollama_herd.cli.client import JsonOption
from ollama_herd.cli.options import load_or_fail, setting
from ollama_herd.cli.process import fail
from ollama_herd.cli.simulate import chosen_of, table_of, watched
from ollama_herd.config import RouterSettings
from ollama_herd.simulate import machines, own
from ollama_herd.simulate.comparison import Case
from ollama_herd.simulate.policies import POLICIES
from ollama_herd.simulate.workloads import BUILT_IN, MIXES
from ollama_herd.simulate.world import Conditions

if TYPE_CHECKING:
    from ollama_herd.core.node import Node
    from ollama_herd.store.database import Database

_PAGE = 500


def whatif(  # noqa: PLR0913 - one parameter an option
    *,
    without: Annotated[
        list[str] | None, typer.Option(metavar="NODE", help="if it were gone; may repeat")
    ] = None,
    add: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND", help=f"with one more: {', '.join(machines.KINDS)}"),
    ] = None,
    put: Annotated[
        list[str] | None,
        typer.Option(metavar="MODEL=NODE", help="if that node had the model as well"),
    ] = None,
    times: Annotated[
        float, typer.Option(min=0.1, max=100.0, help="so many times the traffic")
    ] = 1.0,
    policies: Annotated[
        str, typer.Option(metavar="NAMES", help="comma-separated; ratios are to the first one")
    ] = "herd, least-requests, round-robin",
    requests: Annotated[int, typer.Option(min=20, help="the last so many")] = 1500,
    seeds: Annotated[int, typer.Option(min=1, max=100, help="runs of each policy")] = 3,
    home: Annotated[str | None, setting(RouterSettings, "home", "FOLDER")] = None,
    as_json: JsonOption = False,
) -> None:
    """Replay the router's last requests in a simulation of its nodes; nothing is sent anywhere."""
    chosen = chosen_of(policies, POLICIES, "policy")
    nodes, sent = _read(home, requests)
    specs = own.specs_of(nodes)
    conversations = own.conversations_of(sent, specs, times)
    if not conversations:
        fail("the traces hold no answered request for a model that a node has: nothing to replay")
    was = own.machines_of(nodes)
    try:
        might_be = own.changed(was, specs, without=without or (), added=add or (), put=put or ())
    except own.ChangeRefused as refused:
        fail(str(refused), code=2)
    fleets = {"as it is": was} if might_be == was else {"as it is": was, "what if": might_be}
    console, found = show.console(stderr=as_json), {}
    for name, fleet in fleets.items():
        case = Case(
            name,
            fleet,
            BUILT_IN["chat"],
            MIXES["few"],
            0.0,
            Conditions(owners=False),
            fixed=conversations,
            specs=specs,
        )
        try:
            found[name] = watched(console, case, chosen, range(1, 1 + seeds))
        except ValueError as error:
            fail(f"{name}: {error}", code=2)
        if not as_json:
            title = f"{name}: {len(conversations)} requests on {len(fleet)} machines"
            console.print(table_of(title, found[name], console))
    if as_json:
        typer.echo(msgspec.json.encode(found))


def _read(home: str | None, requests: int) -> tuple[list["Node"], list[own.Sent]]:
    from ollama_herd.store.database import Database  # noqa: PLC0415 - help needs no database
    from ollama_herd.store.errors import StoreError  # noqa: PLC0415
    from ollama_herd.store.fleet import FleetStore  # noqa: PLC0415

    settings = load_or_fail(RouterSettings, {"home": home}).settings
    database = Database(settings.database_url or settings.home)
    if database.path is not None and not database.path.exists():
        fail(f"there is no database at {database.path}: name the router's folder with --home")
    try:
        return FleetStore(database).load(), _sent(database, requests)
    except StoreError as error:
        fail(str(error))
    finally:
        database.close()


def _sent(database: "Database", requests: int) -> list[own.Sent]:
    from ollama_herd.store.queries import TraceFilter, recent_traces  # noqa: PLC0415 - see above

    found: list[own.Sent] = []
    cursor = ""
    while len(found) < requests:
        page = recent_traces(database, TraceFilter(), _PAGE, cursor)
        if not page:
            break
        cursor = page[-1].cursor
        found += [
            own.Sent(
                at_s=trace.started_s,
                client=trace.client,
                model=trace.model_served or trace.model_asked,
                prompt=trace.prompt_tokens or trace.prompt_tokens_estimate,
                output=trace.output_tokens or 1,
            )
            for trace in page
            if trace.status == 200 and not trace.is_load_only
        ]
    return found[:requests]
