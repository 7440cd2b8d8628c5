"""The generated parts of the documentation, each made from the code it describes."""

import enum
import inspect
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import MappingProxyType

from aiohttp import web
from sqlalchemy import Table
from typer import Typer
from typer.main import get_command

from ollama_herd.api import translate_options
from ollama_herd.api.endpoints import INFERENCE
from ollama_herd.cli.agent import app as node_cli
from ollama_herd.cli.commands import app as herd_cli
from ollama_herd.config import NodeSettings, RouterSettings, Settings, default_text, flag_of
from ollama_herd.core.decision import Cost
from ollama_herd.core.fleet import STATUS_TRANSITIONS
from ollama_herd.core.node import (
    EngineReport,
    Gpu,
    LoadedModel,
    Model,
    NodeReport,
    NodeStatus,
    Platform,
    Vitals,
)
from ollama_herd.router.app import Herd
from ollama_herd.router.memory import Memory
from ollama_herd.store.schema import metadata
from tools.sources import (
    commented,
    constants,
    members,
    module_doc,
    paragraph,
    place,
    sources,
    uses,
)

PROCESSES: Mapping[type[Settings], Typer] = MappingProxyType(
    {RouterSettings: herd_cli, NodeSettings: node_cli}
)

OWNERS = (
    ("fleet: nodes and their replicas", "router/registry.py"),
    ("queues, slots, what is in flight", "router/dispatcher.py"),
    ("connections to engines", "router/upstream.py"),
    ("connections of clients", "router/wire.py"),
    ("one request while it is served", "router/journal.py"),
    ("learned speeds and lengths", "core/predict.py"),
    ("what outlives a restart", "router/memory.py"),
    ("traces on their way to disk", "store/thread.py"),
    ("the database", "store/database.py"),
    ("identity of a node", "agent/identity.py"),
    ("engines of a node", "agent/engine_watch.py"),
    ("vitals of a node", "agent/collect.py"),
    ("what the router holds of a node", "agent/reporter.py"),
    ("tunnels to a node's engines", "agent/relay.py"),
)
"""Each piece of state that changes, and the one module that writes it."""

FOLDERS = MappingProxyType(
    {
        "": "used everywhere",
        "cli": "the commands",
        "demo": "`herd demo`",
        "router": "the process `herd`",
        "router/models": "managing models",
        "agent": "the process `herd-node`",
        "dashboard": "pages",
        "store": "the database",
        "store/migrations": "steps of its schema",
        "store/migrations/versions": "one step each",
        "discovery": "mDNS",
        "config": "settings",
        "api": "wire formats, pure",
        "core": "decisions, pure",
    }
)
"""Folders in the order of imports, from the top down."""


_CALLS = re.compile(r"^[A-Z]+ /[^:. ]*(?:, [A-Z]+ /[^:. ]*)*[.:] ?")
"""How docstrings of handlers begin; the table says it already."""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; bars in cells are escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def endpoints() -> str:
    """The rows of the inference table."""
    return table(
        ["path", "kind", "dialect", "streams unless told otherwise", "engines that serve it"],
        [
            [
                f"`POST {row.path}`",
                row.kind.value,
                row.dialect.value,
                "yes" if row.streams_by_default else "no",
                _served_by(row.path),
            ]
            for row in INFERENCE.values()
        ],
    )


def _served_by(path: str) -> str:
    row = INFERENCE[path.encode()]
    if row.translatable:
        return "all; translated where the engine speaks only OpenAI"
    return "all that know the path, untouched"


def control() -> str:
    """Every other route of the running application, with the method that answers it."""
    found: dict[tuple[str, str], list[str]] = {}
    for route in herd_app().router.routes():
        path = route.resource.canonical if route.resource is not None else ""
        if path.encode() not in INFERENCE:
            found.setdefault((path, _answered_by(route.handler)), []).append(route.method)
    rows = [
        [f"`{', '.join(dict.fromkeys(methods))} {path}`", by]
        for (path, by), methods in found.items()
    ]
    return table(["path", "answered by"], sorted(rows, key=lambda row: row[0].split(" ")[-1]))


def _answered_by(handler: Callable[..., object]) -> str:
    """The module and the first words of the handler, looked for behind a guard around it."""
    handler = inspect.getclosurevars(handler).nonlocals.get("handler", handler)
    module = getattr(handler, "__module__", "").removeprefix("ollama_herd.").replace(".", "/")
    said = _CALLS.sub("", paragraph(handler.__doc__))
    where = f"`{module}.py`" if module.startswith(("router", "dashboard")) else ""
    return f"{where} {said}".strip()


def herd_app() -> web.Application:
    """The control plane as `herd` builds it; nothing is opened, nothing listens."""
    with tempfile.TemporaryDirectory() as folder:
        settings = RouterSettings(home=Path(folder))
        herd = Herd(settings, Memory(settings))
    return herd._runner.app  # noqa: SLF001 - the one thing here that only the router needs else


def statuses() -> str:
    """What the node statuses mean, and every way from one to another."""
    arrows = [
        f"    {before.value} --> {after.value}"
        for before, afters in STATUS_TRANSITIONS.items()
        for after in sorted(afters, key=list(NodeStatus).index)
    ]
    lines = ["```mermaid", "stateDiagram-v2", "    [*] --> online: first report"]
    lines += ["    [*] --> restored: the router restarts", *arrows, "```", ""]
    return "\n".join(lines) + "\n" + enumeration("core.node.NodeStatus")


def enumeration(path: str) -> str:
    """The members of an enum with their comments; those that nothing uses are marked."""
    kind = _named(path)
    if not issubclass(kind, enum.Enum):
        raise TypeError(f"{path} is no enum")
    rows = []
    for member in members(kind):
        unused = "" if uses(kind, member.name) else " (kept for later: nothing gives it today)"
        rows.append([f"`{member.value.value}`", f"{member.comment}{unused}"])
    return table(["value", "meaning"], rows)


def signals() -> str:
    """The terms of a candidate's cost."""
    rows = [
        [member.name.removesuffix("_ms").replace("_", " "), f"`{member.name}`", member.comment]
        for member in members(Cost)
        if member.name != "total_ms"
    ]
    return table(["signal", "field of the decision", "expected ms of"], rows)


def settings(name: str) -> str:
    """All settings of one process."""
    kind = {kind.__name__: kind for kind in PROCESSES}[name]
    rows = [
        [
            f"`{field}`",
            f"`{flag}`" if (flag := flag_of(field)) in flags(kind) else "",
            f"`{kind.env_prefix}{field.upper()}`",
            f"`{default}`" if (default := default_text(info)) else "",
            info.description or "",
        ]
        for field, info in kind.model_fields.items()
    ]
    return table(["name", "flag", "variable", "default", "meaning"], rows)


def flags(kind: type[Settings]) -> frozenset[str]:
    """The options of a process's command."""
    return frozenset(
        option
        for parameter in get_command(PROCESSES[kind]).params
        for option in (*parameter.opts, *parameter.secondary_opts)
    )


def owners() -> str:
    """Who writes which state, in the words of the owner's own docstring."""
    return table(
        ["state", "only writer", "in its own words"],
        [[state, f"`{module}`", module_doc(module)] for state, module in OWNERS],
    )


def headers() -> str:
    """Headers that the herd adds to an answer."""
    rows = [[f"`{name}`", comment] for name, comment in commented("X-Herd-").items()]
    return table(["header", "value"], rows)


def tables() -> str:
    """The database."""
    return table(
        ["table", "columns", "key and indexes"],
        [[f"`{item.name}`", _columns(item), _keys(item)] for item in metadata.sorted_tables],
    )


def _columns(item: Table) -> str:
    return ", ".join(f"`{column.name}`" for column in item.columns)


def _keys(item: Table) -> str:
    key = ", ".join(column.name for column in item.primary_key.columns)
    return "; ".join([key, *sorted(str(index.name) for index in item.indexes)])


def report() -> str:
    """What a heartbeat says, struct by struct."""
    rows = []
    for kind in (NodeReport, Platform, Vitals, Gpu, EngineReport, Model, LoadedModel):
        said = [
            f"`{member.name}`" + (f" ({member.comment})" if member.comment else "")
            for member in members(kind)
        ]
        rows.append([f"`{kind.__name__}`", paragraph(kind.__doc__), ", ".join(said)])
    return table(["part", "what it is", "fields"], rows)


def numbers(*folders: str) -> str:
    """Fixed numbers and their reasons."""
    return table(
        ["number", "value", "why"],
        [
            [f"`{item.name}`<br>`{item.module}`", f"{item.value:g}", item.why]
            for folder in folders
            for item in constants(folder)
        ],
    )


def options() -> str:
    """Ollama's options and what an OpenAI engine is told instead."""
    return table(
        ["Ollama", "engine"],
        [
            [f"`{name}`", ", ".join(f"`{other}`" for other in others)]
            for name, (_, others) in translate_options._OPTIONS.items()  # noqa: SLF001 - shown as is
        ],
    )


def modules() -> str:
    """Every module, folder by folder."""
    found: dict[str, list[list[str]]] = {}
    for path in sources():
        name = place(path)
        folder = "" if "/" not in name else name.rsplit("/", 1)[0]
        found.setdefault(folder, []).append([f"`{name}`", module_doc(name)])
    order = [*FOLDERS, *sorted(found.keys() - FOLDERS.keys())]
    return "\n\n".join(
        f"## {folder or 'ollama_herd'}{_about(folder)}\n\n"
        + table(["module", "what it is"], found[folder])
        for folder in order
        if folder in found
    )


def _about(folder: str) -> str:
    return f": {FOLDERS[folder]}" if folder in FOLDERS else ""


def _named(path: str) -> type:
    """`core.node.NodeStatus` as the class itself."""
    module, name = path.rsplit(".", 1)
    found = getattr(import_module(f"ollama_herd.{module}"), name)
    if not isinstance(found, type):
        raise TypeError(f"{path} is no class")
    return found


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


PARTS: Mapping[str, Callable[..., str]] = MappingProxyType(
    {
        "control": control,
        "endpoints": endpoints,
        "enum": enumeration,
        "headers": headers,
        "modules": modules,
        "numbers": numbers,
        "options": options,
        "owners": owners,
        "report": report,
        "settings": settings,
        "signals": signals,
        "statuses": statuses,
        "tables": tables,
    }
)
"""By the name that stands in a marker; words behind it are arguments."""

__all__ = ["PARTS", "PROCESSES", "flags", "herd_app", "table"]
