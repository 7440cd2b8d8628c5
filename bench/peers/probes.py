"""What a client sees through a router: some facts, each one request or a few, as short texts.

The same probe goes to an engine itself first: its answer is the first column of the table.
"""

import itertools
import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.fakes.raw import Client, Response, call
from tests.fakes.state import Scripted

import wire
import wire_openai
from peers.fakes import ANSWER_TOKENS, Engine, pair
from peers.kinds import OLLAMA, OPENAI, PATHS, Kind
from peers.servers import Server

_KEY = {"Authorization": f"Bearer {wire_openai.KEY}"}
_PATIENCE_S = 20.0
_CHAT = {"messages": [{"role": "user", "content": "Tell me"}]}
_TOKEN_MS = 30.0
_LATE_S = 0.25 * _TOKEN_MS / 1000
_SHOWN = 60
_NAMED = 8
_AT_ONCE = 3
_EMBEDDER = "embed:latest"


@dataclass(frozen=True)
class Where:
    """What is probed: a port, and the engines behind it."""

    port: int
    engines: Sequence[Engine]

    def ask(self, method: str, path: str, body: object = None) -> Response:
        """Status 0 for what is no answer."""
        try:
            return call(self.port, method, path, body, _KEY, timeout_s=_PATIENCE_S)
        except TimeoutError:
            return Response(0, f"nothing within {_PATIENCE_S:.0f} s", [], "close")
        except (OSError, ValueError) as broken:
            return Response(0, str(broken), [], "close")

    def chat(self, dialect: str, **more: object) -> Response:
        return self.ask("POST", PATHS[dialect], {"model": wire.MODEL, **_CHAT, **more})

    def received(self) -> list[tuple[str, str, bytes]]:
        """Method, target and body of all that has reached the engines since the last call."""
        found = [
            (method, target, body)
            for engine in self.engines
            for method, target, _, body in engine.state.requests
        ]
        for engine in self.engines:
            engine.state.requests.clear()
        return found


def _told(answer: Response) -> str:
    """Status and the error's own words, shortened."""
    if answer.status == 0:
        return answer.reason[:_SHOWN]
    try:
        body = answer.json()
    except ValueError:
        text = re.sub(r"<[^>]*>|\s+", " ", answer.body.decode(errors="replace")).strip()
        return f"{answer.status} {' '.join(text.split())[:_SHOWN]}".strip()
    error = body.get("error", body) if isinstance(body, dict) else body
    if isinstance(error, dict):
        error = error.get("message") or error.get("detail") or "JSON"
    return f"{answer.status} {str(error)[:_SHOWN]}"


def _unknown_model(where: Where, dialect: str) -> str:
    where.received()
    body = {"model": "no-such-model", **_CHAT, "stream": False}
    answer = where.ask("POST", PATHS[dialect], body)
    pulls = [target for _, target, _ in where.received() if target == "/api/pull"]
    return _told(answer) + (" (and had an engine download it)" if pulls else "")


def _refused(where: Where, dialect: str, body: object) -> str:
    return _told(where.ask("POST", PATHS[dialect], body))


def _trailing_slash(where: Where, dialect: str) -> str:
    body = {"model": wire.MODEL, **_CHAT, "stream": False}
    answer = where.ask("POST", PATHS[dialect] + "/", body)
    return str(answer.status) if answer.status == 200 else _told(answer)


def _is_same(where: Where, dialect: str, *, stream: bool) -> str:
    body = {"model": wire.MODEL, **_CHAT, "stream": stream}
    wanted = call(where.engines[0].port, "POST", PATHS[dialect], body)
    got = where.ask("POST", PATHS[dialect], body)
    if got.status != 200:
        return _told(got)
    return "yes" if got.body == wanted.body else "no"


def _is_prompt(where: Where, dialect: str) -> str:
    """Pieces that came apart from the one before; an engine that waits between tokens sent more."""
    for engine in where.engines:
        engine.settings.token_ms = _TOKEN_MS
    try:
        answer = where.chat(dialect, stream=True)
    finally:
        for engine in where.engines:
            engine.settings.token_ms = 0.0
    apart = sum(b - a > _LATE_S for a, b in itertools.pairwise(answer.arrivals))
    return "yes" if apart > ANSWER_TOKENS / 2 else f"{apart + 1} of {ANSWER_TOKENS} came apart"


_SAMPLING: Mapping[str, tuple[object, bytes]] = {
    "temperature": (0.7, b"0.7"),
    "top_p": (0.8125, b"0.8125"),
    "seed": (424242, b"424242"),
    "stop": (["ZQX"], b"ZQX"),
    "max_tokens": (77, b"77"),
    "frequency_penalty": (0.375, b"0.375"),
    "presence_penalty": (0.625, b"0.625"),
    "response_format": ({"type": "json_object"}, b"json"),
}


def _sampling(where: Where, dialect: str) -> str:
    """Fields whose value reached the engine, under whatever name."""
    where.received()
    asked = {name: value for name, (value, _) in _SAMPLING.items()}
    where.chat(dialect, stream=False, **asked)
    bodies = b"".join(body for method, _, body in where.received() if method == "POST")
    return _without({name for name, (_, mark) in _SAMPLING.items() if mark not in bodies})


def _tool_call(where: Where, dialect: str) -> str:
    asked = {"name": "get_weather", "arguments": {"city": "Paris"}}
    for engine in where.engines:
        engine.script(Scripted(tool_calls=(asked,)))
    tools = [{"type": "function", "function": {"name": "get_weather", "parameters": {}}}]
    try:
        answer = where.chat(dialect, stream=False, tools=tools)
    finally:
        for engine in where.engines:
            engine.script(None)
    if answer.status != 200:
        return _told(answer)
    return "yes" if b"get_weather" in answer.body else "lost"


def _leaves(where: Where, dialect: str, *, stream: bool) -> str:
    """A client that goes while the engine still reads the prompt."""
    for engine in where.engines:
        engine.settings.prefill_ms = 4000
    before = sum(engine.counters.cancelled for engine in where.engines)
    try:
        _ask_and_go(where, dialect, stream=stream)
        end_s = time.monotonic() + 2.5  # noqa: TID251
        while time.monotonic() < end_s:  # noqa: TID251
            if sum(engine.counters.cancelled for engine in where.engines) > before:
                return "yes"
            time.sleep(0.02)  # counters are only to be looked at
    finally:
        for engine in where.engines:
            engine.settings.prefill_ms = 0
        time.sleep(2.0)  # so that the engine is through before the next probe
    return "no"


def _ask_and_go(where: Where, dialect: str, *, stream: bool) -> None:
    with Client(where.port) as client:
        body = {"model": wire.MODEL, **_CHAT, "stream": stream}
        client.ask("POST", PATHS[dialect], body, _KEY)
        time.sleep(0.4)  # until the engine reads the prompt: a client that leaves then is meant


def _get(path: str) -> Callable[[Where], str]:
    """Status, and which fields of the first entry are missing that the engine has."""

    def probe(where: Where) -> str:
        answer = where.ask("GET", path)
        if answer.status != 200:
            return _told(answer)
        wanted = _fields(call(where.engines[0].port, "GET", path).json())
        return _without(wanted - _fields(answer.json()))

    return probe


def _without(lost: set[str]) -> str:
    if not lost:
        return "yes"
    return f"without {', '.join(sorted(lost)[:_NAMED])}{' …' if len(lost) > _NAMED else ''}"


def _fields(body: Any) -> set[str]:
    entries = body.get("models", body.get("data", [body]))
    first = next((entry for entry in entries if entry.get("name", wire.MODEL) == wire.MODEL), {})
    return set(first)


def _post(path: str, body: Mapping[str, object]) -> Callable[[Where], str]:
    """Whether it answers, with the fields of the engine's answer."""

    def probe(where: Where) -> str:
        answer = where.ask("POST", path, body)
        if answer.status != 200:
            return _told(answer)
        wanted = set(call(where.engines[0].port, "POST", path, body).json())
        return _without(wanted - set(answer.json()))

    return probe


_ONE = {"model": wire.MODEL, "stream": False}
_EMBED = {"model": _EMBEDDER, "input": "x"}
_SHARED: Sequence[tuple[str, Callable[..., str], dict[str, object]]] = (
    ("unknown model", _unknown_model, {}),
    ("half a JSON body", _refused, {"body": b'{"model": "bench'}),
    ("`messages` is a string", _refused, {"body": {"model": wire.MODEL, "messages": "hello"}}),
    ("trailing slash", _trailing_slash, {}),
    ("whole answer's bytes are the engine's", _is_same, {"stream": False}),
    ("stream's bytes are the engine's", _is_same, {"stream": True}),
    ("each token at once", _is_prompt, {}),
    ("tool call in a whole answer", _tool_call, {}),
    ("client leaves a stream: engine told", _leaves, {"stream": True}),
    ("client leaves a whole answer: engine told", _leaves, {"stream": False}),
)
_OWN: Mapping[str, Sequence[tuple[str, Callable[[Where], str]]]] = {
    OPENAI: (
        ("sampling fields reach the engine", lambda where: _sampling(where, OPENAI)),
        ("GET /v1/models", _get("/v1/models")),
        ("/v1/completions", _post("/v1/completions", {**_ONE, "prompt": "Hi"})),
        ("/v1/embeddings", _post("/v1/embeddings", _EMBED)),
        ("/v1/responses", _post("/v1/responses", {**_ONE, "input": "Hi"})),
        ("/v1/messages", _post("/v1/messages", {**_ONE, **_CHAT, "max_tokens": 9})),
    ),
    OLLAMA: (
        ("HEAD /", lambda where: str(where.ask("HEAD", "/").status)),
        ("GET /api/version", _get("/api/version")),
        ("GET /api/tags", _get("/api/tags")),
        ("GET /api/ps", _get("/api/ps")),
        ("/api/show", _post("/api/show", {"model": wire.MODEL})),
        ("/api/generate", _post("/api/generate", {**_ONE, "prompt": "Hi"})),
        ("/api/embed", _post("/api/embed", _EMBED)),
        ("/api/embeddings", _post("/api/embeddings", {"model": _EMBEDDER, "prompt": "x"})),
    ),
}


def probes(dialect: str) -> list[tuple[str, Callable[[Where], str]]]:
    """Name and probe, in the order of the table."""
    shared = [(name, partial(probe, dialect=dialect, **more)) for name, probe, more in _SHARED]
    return [*shared, *_OWN[dialect]]


def run(kind: Kind | None, home: Path) -> dict[str, dict[str, str]]:
    """Findings by dialect and probe; of an engine itself without a kind."""
    names = (wire.MODEL, _EMBEDDER)
    with pair() as engines:
        if kind is None:
            return _findings(Where(engines[0].port, engines), (OPENAI, OLLAMA))
        ports = [engine.port for engine in engines]
        with Server(kind, home, ports, models=names) as server:
            for _ in range(4):
                Where(server.port, engines).chat(kind.dialects[0], stream=False)
            return _findings(Where(server.port, engines), kind.dialects)


def _findings(where: Where, dialects: Sequence[str]) -> dict[str, dict[str, str]]:
    return {
        dialect: {name: probe(where) for name, probe in probes(dialect)} for dialect in dialects
    }


def run_all(
    kinds: Sequence[Kind], home: Path
) -> tuple[dict[str, dict[str, dict[str, str]]], dict[str, str]]:
    """Findings by router, that of the engine under "engine"; reasons of those that failed."""
    found = {"engine": run(None, home)}
    failed: dict[str, str] = {}

    def work(kind: Kind) -> None:
        try:
            found[kind.name] = run(kind, home / f"probes-{kind.name}")
        except (RuntimeError, OSError) as reason:
            failed[kind.name] = str(reason)

    with ThreadPoolExecutor(_AT_ONCE) as workers:
        list(workers.map(work, kinds))
    return found, failed
