"""`herd pull` and `herd rm`: get a model onto nodes, or delete it from them, after a question."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Annotated, NamedTuple

import msgspec
import typer
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TransferSpeedColumn,
)

from ollama_herd.api.fleet_lists import ModelList
from ollama_herd.api.progress import ProgressLine
from ollama_herd.cli import show
from ollama_herd.cli.client import Headers, JsonOption, Refused, Router, RouterOption, YesOption
from ollama_herd.cli.process import fail
from ollama_herd.core.names import canonical_name

_SILENCE_S = 600.0
"""An engine that verifies a large layer says nothing for minutes."""

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="such as llama3.2")]
NodesOption = Annotated[
    list[str] | None, typer.Option("--node", metavar="NODE", help="on this node; may repeat")
]


class _Told(NamedTuple):
    """One line of progress from one node ("" where the router chose)."""

    node: str
    line: ProgressLine


def pull(
    model: ModelArgument,
    *,
    node: NodesOption = None,
    yes: YesOption = False,
    router: RouterOption = None,
    as_json: JsonOption = False,
) -> None:
    """Download a model. Without --node, nodes that have it are renewed; a new one gets one home."""
    herd = Router(router)
    nodes = node or _holders(herd, model)
    where = ", ".join(nodes) if nodes else "the node with the most room"
    show.confirm(f"Pull {model} onto {where}?", yes=yes)
    shown: AbstractContextManager[Callable[[_Told], None]] = (
        nullcontext(_print_json) if as_json else _Bars()
    )
    with shown as tell, ThreadPoolExecutor(max_workers=max(1, len(nodes))) as threads:
        work = [threads.submit(_pull_one, herd, model, name, tell) for name in (nodes or [""])]
        errors = [error for error in (one.result() for one in work) if error]
    if errors:
        fail("; ".join(errors))
    if not as_json:
        typer.echo(f"{model} is there")


def remove(
    model: ModelArgument,
    *,
    node: NodesOption = None,
    yes: YesOption = False,
    router: RouterOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete a model from the disks of all nodes that have it, or of those named."""
    herd = Router(router)
    having = _holders(herd, model)
    nodes = node or having
    if not nodes:
        fail(f"no node has {model}")
    show.confirm(f"Delete {model} from the disk of {', '.join(nodes)}?", yes=yes)
    done, errors = [], []
    for name in nodes:
        try:
            with herd.sent(
                "DELETE", "/api/delete", {"model": model}, _on(name), timeout_s=_SILENCE_S
            ) as response:
                response.read()
            done.append(name)
        except Refused as refused:
            errors.append(f"{name}: {refused}")
    if as_json:
        typer.echo(msgspec.json.encode({"model": model, "deleted_on": done, "errors": errors}))
    elif done:
        typer.echo(f"{show.clean(model)} is deleted on {show.clean(', '.join(done))}")
    if errors:
        fail("; ".join(errors))


def _holders(herd: Router, model: str) -> list[str]:
    """Nodes whose engine can be told to pull or delete the model, and has it."""
    key = canonical_name(model)
    found = herd.read("/fleet/models", ModelList).models
    places = next((entry.places for entry in found if entry.model.name == key), ())
    return list(dict.fromkeys(p.node for p in places if p.usable and p.engine_kind == "ollama"))


def _pull_one(herd: Router, model: str, node: str, tell: Callable[[_Told], None]) -> str:
    """What went wrong, "" when all is well."""
    try:
        for raw in herd.lines("POST", "/api/pull", {"model": model}, _on(node), _SILENCE_S):
            line = herd.decoded(raw, ProgressLine)
            tell(_Told(node, line))
            if line.error:
                return f"{node}: {line.error}" if node else line.error
            if line.status == "success":
                return ""
    except Refused as refused:
        return f"{node}: {refused}" if node else str(refused)
    return f"{node or herd.url}: the connection was lost before it was done"


def _on(node: str) -> Headers:
    return {"X-Herd-Node": node.encode()} if node else {}


def _print_json(told: _Told) -> None:
    line = {name: value for name, value in msgspec.structs.asdict(told.line).items() if value}
    typer.echo(msgspec.json.encode({"node": told.node, **line}))


class _Bars(AbstractContextManager[Callable[[_Told], None]]):
    """A bar for each layer and node; a line where nobody watches."""

    def __init__(self) -> None:
        self._console = show.console()
        columns: Sequence[TextColumn | BarColumn | DownloadColumn | TransferSpeedColumn] = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
        )
        self._progress = Progress(*columns, console=self._console)
        self._tasks: dict[tuple[str, str], TaskID] = {}
        self._said: set[tuple[str, str]] = set()

    def __enter__(self) -> Callable[[_Told], None]:
        self._progress.start()
        return self._tell

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def _tell(self, told: _Told) -> None:
        node, line = told
        name = f"{show.clean(node)} " if node else ""
        if line.digest and line.total:
            key = (node, line.digest)
            if key not in self._tasks:
                layer = show.clean(line.digest.removeprefix("sha256:"))[:12]
                self._tasks[key] = self._progress.add_task(f"{name}{layer}", total=line.total)
            self._progress.update(self._tasks[key], completed=line.completed, total=line.total)
        elif line.status and (node, line.status) not in self._said:
            self._said.add((node, line.status))
            self._progress.print(show.text(f"{name}{line.status}"))
