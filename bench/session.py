"""What one run of the bench keeps running: the fake engines, the proxies, the load."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import nginx
import procs
import wire

_HERE = Path(__file__).parent
_LONGEST_LOAD_S = 120.0


class Proxy(Protocol):
    """A proxy under test. `fast_port` leads to the engines made for the request rate."""

    port: int
    fast_port: int
    process: subprocess.Popen[bytes]

    def stop(self) -> None: ...


class Session:
    """The engines on the load's core, and the way to start proxies and loads."""

    generator_file = _HERE / "loadgen.py"

    def __init__(
        self,
        home: Path,
        *,
        quick: bool,
        use_wrk: bool,
        tick: Callable[[], None],
        site: Path | None = None,
    ) -> None:
        """`site`: where the herd with a compiled core is, None to use plain Python throughout."""
        self.quick = quick
        self._site = site
        self.home = home
        self._tick = tick
        self._started = 0
        cores = procs.cores()
        self.proxy_core = cores[0] if cores else None
        self.load_core = cores[1] if cores else None
        with procs.on_core(self.load_core):
            self._upstream = subprocess.Popen(
                [sys.executable, str(_HERE / "upstream.py"), "2"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        assert self._upstream.stdout is not None
        self.engines: list[int] = json.loads(self._upstream.stdout.readline())["ports"]
        self.control_port = self.engines[0]
        self.wrk = shutil.which("wrk") if use_wrk and nginx.executable() else None
        self._fast: nginx.NginxEngine | None = None
        if self.wrk:
            self._fast = nginx.NginxEngine(home / "fast", self.load_core)

    @property
    def generator(self) -> str:
        return "wrk + nginx as engine" if self.wrk else "own (Python)"

    def start(self, name: str) -> Proxy:
        """A fresh proxy of that name, up and with both nodes known."""
        self._started += 1
        home = self.home / f"{name}-{self._started}"
        fast = self.fast_engines
        if name == "nginx":
            return nginx.NginxProxy(home, self.engines, fast, self.proxy_core)
        from herd import Herd  # noqa: PLC0415 - the package need not be there for nginx alone

        site = self._site if name == "herd" else None
        return Herd(home, self.engines, fast, self.proxy_core, site=site)

    @property
    def fast_engines(self) -> list[int]:
        """Engines for the rate of requests; empty without wrk."""
        return self._fast.ports if self._fast else []

    def load(self, mode: str, port: int, pids: Sequence[int], **keys: object) -> dict[str, Any]:
        """Run the load generator to its end; RuntimeError when it fails."""
        order = {"mode": mode, "port": port, "pids": list(pids), **keys}
        text = self._run([sys.executable, str(self.generator_file), json.dumps(order)])
        result: dict[str, Any] = json.loads(text)
        return result

    def run_wrk(
        self, port: int, pids: Sequence[int], seconds: int, request: bytes = b""
    ) -> dict[str, Any]:
        """32 connections of wrk at the fast engines: requests, CPU seconds, errors."""
        script = self.home / "post.lua"
        request = request or wire.request(wire.Order(0), port, model=wire.FAST_MODEL)
        head, _, body = request.partition(b"\r\n\r\n")
        path = head.split(b" ", 2)[1].decode()
        script.write_text(_WRK_SCRIPT % body.decode())
        cpu_before_s = procs.cpu_s(pids)
        assert self.wrk
        text = self._run(
            [self.wrk, "-t1", "-c32", f"-d{seconds}s", "-s", str(script),
             f"http://127.0.0.1:{port}{path}"]
        )  # fmt: skip
        cpu_used_s = procs.cpu_s(pids) - cpu_before_s
        result: dict[str, Any] = json.loads(text[text.rindex("{") :])
        return result | {"cpu_s": cpu_used_s}

    def _run(self, command: Sequence[str]) -> str:
        """Its standard output; the progress bars move meanwhile."""
        output = self.home / "load.out"
        with output.open("wb") as sink, procs.on_core(self.load_core):
            process = subprocess.Popen(command, stdout=sink)
        end_s = time.monotonic() + _LONGEST_LOAD_S  # noqa: TID251
        try:
            while process.poll() is None and time.monotonic() < end_s:  # noqa: TID251
                self._tick()
                try:
                    process.wait(0.25)
                except subprocess.TimeoutExpired:
                    continue
        finally:
            procs.stop(process, 1.0)
        if process.returncode:
            raise RuntimeError(f"{Path(command[-1]).name[:80]} failed ({process.returncode})")
        return output.read_text()

    def close(self) -> None:
        if self._fast is not None:
            self._fast.stop()
        assert self._upstream.stdin is not None
        self._upstream.stdin.close()
        procs.stop(self._upstream, 2.0)


_WRK_SCRIPT = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = [==[%s]==]
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '{"requests": %%d, "wall_s": %%f, "errors": %%d}\\n', summary.requests,
    summary.duration / 1e6, e.connect + e.read + e.write + e.status + e.timeout))
end
"""
