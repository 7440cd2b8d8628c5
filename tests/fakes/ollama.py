"""A fake Ollama: the server of the recordings without a model behind it.

In a test's own loop: `async with FakeOllama() as fake`. Beside blocking tests: `with
FakeOllama().in_thread() as fake`. As a process: `python -m tests.fakes.ollama --port 0` prints
its port; `/__fake__/…` then takes the place of the Python object.
"""

import argparse
import asyncio
import contextlib
import re
import sys
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator
from dataclasses import replace
from typing import Any, Self, TypeVar

from tests.fakes import checks
from tests.fakes.checks import RefusedError
from tests.fakes.control import answer_control
from tests.fakes.generation import PATHS, Generation
from tests.fakes.gojson import dumps, rfc3339_nano
from tests.fakes.models import FakeModel, model, recorded_models
from tests.fakes.runners import Runners
from tests.fakes.state import Counters, Fault, FaultRule, Scripted, Settings, State
from tests.fakes.wire import HttpServer, Reply, Request

_T = TypeVar("_T")

_GET = ("HEAD", "GET")
_METHODS: dict[str, tuple[str, ...]] = {
    "/": _GET,
    "/api/version": _GET,
    "/api/tags": _GET,
    "/api/status": ("GET",),
    "/api/ps": ("GET",),
    "/v1/models": ("GET",),
    "/api/show": ("POST",),
    "/api/delete": ("DELETE",),
    "/api/copy": ("POST",),
    **dict.fromkeys(PATHS, ("POST",)),
}
_ALLOWED_ORIGIN = re.compile(r"^(https?://(localhost|127\.0\.0\.1|0\.0\.0\.0)(:\d+)?|app://.*)$")
_ALLOWED_HOST = re.compile(r"^(localhost|[\w-]+|.*\.(local|localhost|internal)|[\d.]+)(:\d+)?$")
_CORS_HEADERS = (
    "Authorization,Content-Type,User-Agent,Accept,X-Requested-With,Openai-Beta,X-Stainless-Arch,"
    "X-Stainless-Async,X-Stainless-Custom-Poll-Interval,X-Stainless-Helper-Method,"
    "X-Stainless-Lang,X-Stainless-Os,X-Stainless-Package-Version,X-Stainless-Poll-Helper,"
    "X-Stainless-Retry-Count,X-Stainless-Runtime,X-Stainless-Runtime-Version,X-Stainless-Timeout"
)


class FakeOllama:
    """One engine. `counters` and `state.requests` show what reached it."""

    def __init__(
        self,
        models: Iterable[FakeModel] | None = None,
        settings: Settings | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.state = State(settings or Settings())
        listed = recorded_models() if models is None else models
        self.models: dict[str, FakeModel] = {m.key: m for m in listed}
        self.runners = Runners(self.state)
        self._generation = Generation(self.state, self.runners, self.models)
        self.server = HttpServer(self._answer, host=host, port=port)
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def port(self) -> int:
        return self.server.port

    @property
    def url(self) -> str:
        return f"http://{self.server.host}:{self.server.port}"

    @property
    def counters(self) -> Counters:
        return self.state.counters

    @property
    def settings(self) -> Settings:
        return self.state.settings

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        await self.server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.server.stop()

    @contextlib.contextmanager
    def in_thread(self, enter: Callable[[], None] = lambda: None) -> Iterator[Self]:
        """Serve from a thread with its own loop until the block ends.

        `enter` is called in that thread first (to join a network namespace, for one).
        """
        ready, done = threading.Event(), asyncio.Event()

        async def serve() -> None:
            async with self:
                ready.set()
                await done.wait()

        def work() -> None:
            enter()
            asyncio.run(serve())

        thread = threading.Thread(target=work, name="fake ollama")
        thread.start()
        try:
            if not ready.wait(10):
                raise TimeoutError("the fake did not start")
            yield self
        finally:
            assert self._loop is not None
            self._loop.call_soon_threadsafe(done.set)
            thread.join(10)

    def fail_next(
        self, fault: Fault, times: int = 1, *, after_tokens: int = 3, path: str = ""
    ) -> None:
        """The next `times` inference requests (or requests to `path`) go wrong."""
        self.state.faults.append(FaultRule(fault, times, after_tokens, path))

    def heal(self) -> None:
        """No more faults."""
        self.state.faults.clear()

    def script(self, scripted: Scripted | None, name: str = "") -> None:
        """What a model says from now on ("": every model); None: the default words again."""
        key = model(name).key if name else ""
        if scripted is None:
            self.state.scripts.pop(key, None)
        else:
            self.state.scripts[key] = scripted

    def reset(self, settings: Settings | None = None) -> None:
        """As new but for what is loaded: counters, faults, scripts, settings."""
        self.heal()
        self.state.scripts.clear()
        self.state.requests.clear()
        self.state.counters = Counters()
        self.state.settings = settings or Settings()

    def refuse(self) -> None:
        """Stop listening and reset what is open, from any thread."""
        self._call(self.server.refuse())

    def listen(self) -> None:
        """Listen again on the same port."""
        self._call(self.server.start())

    def wait_for(
        self, holds: Callable[[Counters], bool], timeout_s: float = 5.0, what: str = ""
    ) -> float:
        """Block until the counters satisfy `holds`; seconds it took. See `State.wait_for`."""
        return self.state.wait_for(holds, timeout_s, what)

    def _call(self, work: Coroutine[Any, Any, _T]) -> _T:
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _answer(self, request: Request, reply: Reply) -> None:
        if request.path.startswith("/__fake__/"):
            await answer_control(self, request, reply)
            return
        entry = (request.method, request.target, request.headers, request.body)
        self.state.requests.append(entry)
        if not await self._gate(request, reply):
            return
        if request.path in PATHS and request.method == "POST":
            await self._generation.answer(request, reply)
            return
        rule = self.state.take_fault(request.path, is_inference=False)
        if rule is not None:
            await _spoil(rule.fault, reply)
            return
        try:
            await self._control_plane(request, reply)
        except RefusedError as refused:
            status, content_type, body = checks.render(refused, request.path)
            await reply.send(status, body, content_type)

    async def _gate(self, request: Request, reply: Reply) -> bool:
        """Host, Origin, method and path, in the order of the real server."""
        path, origin = request.path, request.header("origin")
        methods = _methods(path)
        allow = {"Allow": ", ".join(methods)} if methods else {}
        is_own = origin == f"http://{request.header('host')}"
        host = request.header("host")
        if host and not _ALLOWED_HOST.match(host):
            await reply.send(403, content_type="")
        elif origin and not is_own and not _ALLOWED_ORIGIN.match(origin):
            is_options = request.method == "OPTIONS"
            await reply.send(403, content_type="", headers=allow if is_options else None)
        elif request.method == "OPTIONS" and origin:
            await reply.send(204, content_type="", headers={**allow, **_preflight(origin)})
        elif not methods:
            await _not_found(request, reply)
        elif request.method not in methods:
            await reply.send(405, b"405 method not allowed", "text/plain", allow)
        else:
            if origin and not is_own:
                reply.extra_headers = {"Access-Control-Allow-Origin": origin, "Vary": "Origin"}
            return True
        return False

    async def _control_plane(self, request: Request, reply: Reply) -> None:
        match request.path:
            case "/":
                await reply.send(200, b"Ollama is running", "text/plain; charset=utf-8")
            case "/api/version":
                await reply.send(200, dumps({"version": self.settings.version}))
            case "/api/status":
                await reply.send(200, dumps({"cloud": {"disabled": True, "source": "env"}}))
            case "/api/tags":
                entries = [m.tag_entry() for m in self._newest_first()]
                await reply.send(200, dumps({"models": entries}))
            case "/api/ps":
                await reply.send(200, dumps({"models": self._running()}))
            case "/v1/models":
                data = [_openai_entry(m, m.name) for m in self._newest_first()]
                body = dumps({"object": "list", "data": data}) + b"\n"
                await reply.send(200, body, "application/json")
            case "/api/show":
                asked = checks.read_body(request, request.path)
                found = checks.find(self.models, asked, request.path)
                await reply.send(200, dumps(found.show()))
            case "/api/delete":
                asked = checks.read_body(request, request.path)
                del self.models[checks.find(self.models, asked, request.path).key]
                await reply.send(200, content_type="")
            case "/api/copy":
                await self._copy(request, reply)
            case _:
                await self._one_model(request, reply)

    async def _one_model(self, request: Request, reply: Reply) -> None:
        name = request.path.rpartition("/")[2]
        try:
            found = checks.find(self.models, {"model": name}, "/v1/models")
        except RefusedError as refused:
            status, content_type, body = checks.render(refused, request.path)
            await reply.send(status, body, content_type)
            return
        await reply.send(200, dumps(_openai_entry(found, name)) + b"\n", "application/json")

    async def _copy(self, request: Request, reply: Reply) -> None:
        asked = checks.read_body(request, request.path)
        source = self.models.get(model(str(asked.get("source", ""))).key)
        if source is None:
            raise RefusedError(404, f'model "{asked.get("source", "")}" not found')
        destination = str(asked.get("destination", ""))
        if not checks.is_name(destination):
            raise RefusedError(400, f'destination "{destination}" is invalid')
        copied = replace(source, name=model(destination).name)
        self.models[copied.key] = copied
        await reply.send(200, content_type="")

    def _newest_first(self) -> list[FakeModel]:
        return sorted(self.models.values(), key=lambda m: m.modified_at, reverse=True)

    def _running(self) -> list[dict[str, Any]]:
        self.runners.expire()
        loaded = sorted(self.runners.loaded.values(), key=lambda r: -r.expires_s)
        return [
            {
                "name": runner.model.name,
                "model": runner.model.name,
                "size": runner.model.loaded_bytes,
                "digest": runner.model.digest,
                "details": runner.model.details(),
                "expires_at": rfc3339_nano(runner.expires_s),
                "size_vram": runner.model.vram_bytes,
                "context_length": runner.context_length,
            }
            for runner in loaded
            if not runner.is_leaving
        ]


def _methods(path: str) -> tuple[str, ...]:
    if path.startswith("/v1/models/") and path.count("/") == 3:
        return ("GET",)
    return _METHODS.get(path, ())


async def _not_found(request: Request, reply: Reply) -> None:
    cleaned = re.sub(r"/{2,}", "/", request.path)
    slashless = cleaned.rstrip("/")
    if cleaned != request.path:
        await reply.send(307, content_type="", headers={"Location": cleaned})
    elif slashless != cleaned and _methods(slashless):
        status = 301 if request.method == "GET" else 307
        await reply.send(status, content_type="", headers={"Location": slashless})
    else:
        await reply.send(404, b"404 page not found", "text/plain")


def _preflight(origin: str) -> dict[str, str]:
    return {
        "Access-Control-Allow-Headers": _CORS_HEADERS,
        "Access-Control-Allow-Methods": "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS",
        "Access-Control-Allow-Origin": origin,
        "Access-Control-Max-Age": "43200",
        "Vary": "Origin",
    }


def _openai_entry(found: FakeModel, name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": found.created, "owned_by": "library"}


async def _spoil(fault: Fault, reply: Reply) -> None:
    match fault:
        case Fault.GARBAGE:
            await reply.send(200, b'{"models":[{"name":5,"size":"big"},nul', "application/json")
        case Fault.ERROR_500 | Fault.BUSY_503:
            await reply.send(500, dumps({"error": "broken"}))
        case Fault.SILENCE | Fault.STALL_MID_STREAM:
            await asyncio.Event().wait()
        case _:
            reply.close()


async def _serve(arguments: argparse.Namespace) -> None:
    settings = Settings(
        token_ms=arguments.token_ms,
        load_ms=arguments.load_ms,
        num_parallel=arguments.num_parallel,
        max_loaded=arguments.max_loaded,
        is_frozen=arguments.frozen,
    )
    models = [model(name) for name in arguments.model] or None
    fake = FakeOllama(models, settings, host=arguments.host, port=arguments.port)
    async with fake:
        sys.stdout.write(f"{fake.port}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


def main() -> None:
    """Run as a process until killed; prints the port it listens on."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--model", action="append", default=[])
    parser.add_argument("--token-ms", type=float, default=0.0)
    parser.add_argument("--load-ms", type=float, default=0.0)
    parser.add_argument("--num-parallel", type=int, default=1)
    parser.add_argument("--max-loaded", type=int, default=3)
    parser.add_argument("--frozen", action="store_true")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
