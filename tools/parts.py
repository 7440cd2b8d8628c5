"""The generated parts of the documentation, each made from the code it describes."""

import enum
import json
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic.fields import FieldInfo
from sqlalchemy import Table
from typer import Typer
from typer.main import get_command

from ollama_herd.api import translate_options
from ollama_herd.cli.agent import app as node_cli
from ollama_herd.cli.commands import app as herd_cli
from ollama_herd.config import NodeSettings, RouterSettings, Settings, default_text, flag_of
from ollama_herd.core.decision import Cost, Eliminated
from ollama_herd.core.fleet import STATUS_TRANSITIONS, Fleet
from ollama_herd.core.health.checks import CHECKS
from ollama_herd.core.health.values import Health, Severity
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
from ollama_herd.core.queue import QueueView
from ollama_herd.core.request import OutcomeKind
from ollama_herd.router.metrics import Readings, families
from ollama_herd.store.schema import metadata
from ollama_herd.store.traces import TraceHealth
from tools.markdown import table
from tools.routes import control, endpoints
from tools.sources import (
    ROOT,
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
    ("subscribers of the dashboard", "router/feed.py"),
    ("one request while it is served", "router/journal.py"),
    ("learned speeds and lengths", "core/predict.py"),
    ("what outlives a restart", "router/memory.py"),
    ("traces on their way to disk", "store/thread.py"),
    ("counts of ended requests, the state of health", "router/watch.py"),
    ("the settings of the running router", "router/live.py"),
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
        "simulate": "`herd simulate`",
        "simulate/reference": "the policy that the herd is measured against",
        "dashboard": "pages",
        "store": "the database",
        "store/migrations": "steps of its schema",
        "store/migrations/versions": "one step each",
        "discovery": "mDNS",
        "config": "settings",
        "api": "wire formats, pure",
        "core": "decisions, pure",
        "core/health": "what is wrong, since when, what to do; pure",
    }
)
"""Folders in the order of imports, from the top down."""


def statuses() -> str:
    """What the node statuses mean, and every way from one to another."""
    arrows = [("first report", "online"), ("the router restarts", "restored")]
    arrows += [
        (before.value, ", ".join(after.value for after in sorted(afters, key=_ORDER.index)))
        for before, afters in STATUS_TRANSITIONS.items()
    ]
    width = max(len(before) for before, _ in arrows)
    lines = [f"{before:{width}} ──▶ {afters}" for before, afters in arrows]
    return "\n".join(["```text", *lines, "```", "", enumeration("core.node.NodeStatus")])


_ORDER = tuple(NodeStatus)


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
    rows = [[name, f"`{field}`", meaning] for field, name, meaning in _terms()]
    return table(["signal", "field of the decision", "what it costs"], rows)


def _terms() -> list[tuple[str, str, str]]:
    """Field, name and meaning of each signal."""
    return [
        (member.name, member.name.removesuffix("_ms").replace("_", " "), member.comment)
        for member in members(Cost)
        if member.name != "total_ms"
    ]


def meanings() -> str:
    """What the dashboard says of signals, of places left out, and of how attempts ended: JSON."""
    told: dict[str, object] = {
        "signals": [
            {"field": field, "name": name.capitalize(), "meaning": meaning}
            for field, name, meaning in _terms()
        ]
    }
    for key, kind in (("eliminated", Eliminated), ("outcomes", OutcomeKind)):
        told[key] = {str(member.value): member.comment for member in members(kind)}
    return json.dumps(told, indent=2, ensure_ascii=False) + "\n"


def settings(name: str) -> str:
    """All settings of one process."""
    kind = {kind.__name__: kind for kind in PROCESSES}[name]
    rows = [
        [
            f"`{field}`",
            f"`{flag}`" if (flag := flag_of(field)) in flags(kind) else "",
            f"`{kind.env_prefix}{field.upper()}`",
            f"`{default}`" if (default := default_of(info)) else "",
            info.description or "",
        ]
        for field, info in kind.model_fields.items()
    ]
    return table(["name", "flag", "variable", "default", "meaning"], rows)


def default_of(field: FieldInfo) -> str:
    """The default of a setting, written alike on every system."""
    default = field.default
    return default.as_posix() if isinstance(default, Path) else default_text(field)


def flags(kind: type[Settings]) -> frozenset[str]:
    """The options of a process's command."""
    return frozenset(
        option
        for parameter in get_command(PROCESSES[kind]).params
        for option in (*parameter.opts, *parameter.secondary_opts)
    )


def checks() -> str:
    """All health checks."""
    return table(
        ["code", "check", "what it means", "what to do", "shown after"],
        [
            [f"`{one.code}`", one.title, one.meaning, one.advice, f"{one.visible_s:g} s"]
            for one in CHECKS
        ],
    )


def remedies() -> str:
    """What each health check means and what to do."""
    return table(
        ["code", "what it means", "what to do"],
        [[f"`{one.code}`", one.meaning, one.advice] for one in CHECKS],
    )


def metrics() -> str:
    """All metrics of the herd's own; their labels are those with which they are declared."""
    nothing = Health(Severity.OK, 0.0, {}, ())
    kept = TraceHealth(0, 0, 0, "", 0.0, 0)
    readings = Readings("", Fleet(), QueueView(0, 0, (), ()), nothing, kept, 0, 0, {})
    rows = []
    for family in families(readings):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = ", ".join(f"`{label}`" for label in getattr(family, "_labelnames", ()))
        rows.append([f"`{name}`", family.type, labels, family.documentation])
    return table(["metric", "type", "labels", "what it is"], rows)


def decisions() -> str:
    """All decisions, by the first lines of their pages."""
    pages = sorted((ROOT / "docs/decisions").glob("[0-9]*.md"))
    titles = ((path.name, path.read_text(encoding="utf-8").splitlines()[0]) for path in pages)
    return "\n".join(f"- [{title.removeprefix('# ')}]({name})" for name, title in titles)


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
            [f"`{item.name}`<br>`{item.module}`", _written(item.value), item.why]
            for folder in folders
            for item in constants(folder)
        ],
    )


def _written(value: float) -> str:
    """In full, with separators: 4,194,304."""
    return f"{int(value):,}" if value == int(value) else f"{value:g}"


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


def commands(name: str) -> str:
    """Every command of a program with its arguments and options, as its help tells them."""
    app = {"herd": herd_cli, "herd-node": node_cli}[name]
    return "\n\n".join(_commands(get_command(app), name))


def _commands(command: Any, path: str, depth: int = 0) -> Iterator[str]:
    yield _command(command, path, depth)
    if hasattr(command, "list_commands"):
        context = command.make_context(path, [], resilient_parsing=True)
        for name in command.list_commands(context):
            yield from _commands(command.get_command(context, name), f"{path} {name}", depth + 1)


def _command(command: Any, path: str, depth: int) -> str:
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    named = "".join(f" {_argument(one)}" for one in arguments)
    rows = [[f"`{_argument(one)}`", one.help or ""] for one in arguments]
    for one in command.params:
        if one.param_type_name == "option" and one.name not in _OF_EVERY_COMMAND:
            value = "" if one.is_flag else f" {one.metavar or 'N'}"
            rows.append([f"`{', '.join(one.opts)}{value}`", one.help or "show the version"])
    said = (command.help or "").strip()
    title = f"#{'#' * min(depth + 1, 3)} `{path}{named}`"
    return "\n\n".join([title, said, *([table(["", ""], rows)] if rows else [])])


def _argument(one: Any) -> str:
    name = (one.metavar or one.name.upper()).strip("[]{}.")
    name += "..." if one.nargs == -1 else ""
    return name if one.required else f"[{name}]"


_OF_EVERY_COMMAND = ("help", "install_completion", "show_completion")


PARTS: Mapping[str, Callable[..., str]] = MappingProxyType(
    {
        "checks": checks,
        "commands": commands,
        "control": control,
        "decisions": decisions,
        "endpoints": endpoints,
        "enum": enumeration,
        "headers": headers,
        "metrics": metrics,
        "modules": modules,
        "numbers": numbers,
        "options": options,
        "owners": owners,
        "remedies": remedies,
        "report": report,
        "settings": settings,
        "signals": signals,
        "statuses": statuses,
        "tables": tables,
    }
)
"""By the name that stands in a marker; words behind it are arguments."""
