"""The paths of the router: the inference table, and all others of the running application."""

import inspect
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

from aiohttp import web

from ollama_herd.api.endpoints import INFERENCE, Endpoint
from ollama_herd.api.parse import ParsedBody, read_request
from ollama_herd.config import RouterSettings
from ollama_herd.router.app import Herd
from ollama_herd.router.live import LiveSettings
from ollama_herd.router.memory import Memory
from tools.markdown import table
from tools.sources import paragraph

_CALLS = re.compile(r"^[A-Z]+ /[^:. ]*(?:, [A-Z]+ /[^:. ]*)*[.:] ?")
"""How docstrings of handlers begin; the table says it already."""


def endpoints() -> str:
    """The rows of the inference table."""
    return table(
        ["path", "kind", "dialect", "streams unless told otherwise", "engines that serve it"],
        [
            [
                f"`POST {row.path}`",
                row.kind.value,
                row.dialect.value,
                "yes" if _streams(row) else "no",
                _served_by(row.path),
            ]
            for row in INFERENCE.values()
        ],
    )


_SILENT_ON_STREAM = b'{"model":"m","messages":[{}],"prompt":"p","input":"p","max_tokens":1}'


def _streams(row: Endpoint) -> bool:
    """What a request gets that does not say."""
    parsed = read_request(row, _SILENT_ON_STREAM)
    return isinstance(parsed, ParsedBody) and parsed.stream


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
        memory = Memory(settings)
        herd = Herd(LiveSettings(settings, {}, memory.setting_store, {}), memory)
    return herd._runner.app  # noqa: SLF001 - the one thing here that only the router needs else
