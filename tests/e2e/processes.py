"""`herd` and `herd-node` as real processes, started, watched and ended by tests."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import psutil

from ollama_herd import clock
from tests.fakes.raw import Client, Response
from tests.pace import in_time

START_S = 60.0
"""From exec to ready, on a machine busy with other tests."""

POLL_S = 0.02

DIES_WITH_US = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
"""Tests that are killed cannot clean up: where the kernel can, it ends their processes."""

LOGGING: list["Running"] = []
"""Processes whose logs are shown when a test fails."""


class Running:
    """One process in a group of its own, its output in a file."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        folder: Path,
        env: Mapping[str, str],
        prefix: Sequence[str] = (),
    ) -> None:
        self.name = name
        self._log_path = folder / f"{name}.log"
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("HERD_", "OLLAMA_"))}
        with self._log_path.open("ab") as log:
            self.popen = subprocess.Popen(
                [*prefix, *DIES_WITH_US, sys.executable, *command],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={**clean, **env},
                start_new_session=True,
            )
        LOGGING.append(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def log(self) -> str:
        """All it has printed so far."""
        return self._log_path.read_text(errors="replace")

    def signal(self, number: int) -> None:
        self.popen.send_signal(number)

    def terminate(self, timeout_s: float = 10.0) -> tuple[int, float]:
        """SIGTERM; the exit status and the seconds it took."""
        begun_s = clock.monotonic_s()
        self.signal(signal.SIGTERM)
        return self.popen.wait(timeout_s), clock.monotonic_s() - begun_s

    def kill(self) -> None:
        """SIGKILL to the whole group; nothing of it is left afterwards."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait(10)
        wait_until(lambda: not _group(self.popen.pid), 5, f"{self.name} to leave nothing behind")
        if self in LOGGING:
            LOGGING.remove(self)

    def rss_bytes(self) -> int:
        """Resident memory of the process."""
        return int(psutil.Process(self.popen.pid).memory_info().rss)

    def check_alive(self) -> None:
        """Raise with the log when it has ended."""
        if self.popen.poll() is not None:
            raise RuntimeError(f"{self.name} ended with {self.popen.returncode}:\n{self.log()}")


class Herd(Running):
    """A router on loopback."""

    def __init__(
        self,
        folder: Path,
        *,
        port: int = 0,
        host: str = "127.0.0.1",
        env: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
        mdns: bool = False,
    ) -> None:
        self.address = host
        self.port = port or free_port()
        self.home = folder / "router-home"
        command = ["-m", "ollama_herd.cli.herd", "--host", host, "--port", str(self.port)]
        command += ["--log-level", "debug", *([] if mdns else ["--no-mdns"])]
        own = {"HERD_HOME": str(self.home), "HERD_HEARTBEAT_S": "0.5", "HERD_CANARY_S": "0"}
        own |= env or {}
        super().__init__("herd", command, folder, own, prefix)

    def ready(self) -> Self:
        """Wait until it answers."""
        self.wait_status(lambda _status: True, "the router to answer", START_S)
        return self

    def wait_status_code(self, code: int) -> float:
        """Wait until `/fleet/status` is answered with `code`."""

        def check() -> bool:
            self.check_alive()
            try:
                return self.call("GET", "/fleet/status", timeout_s=5).status == code
            except OSError:
                return False

        return wait_until(check, START_S, f"the router to answer {code}")

    def status(self) -> dict[str, Any]:
        """`/fleet/status`."""
        answer = self.call("GET", "/fleet/status", timeout_s=5)
        assert answer.status == 200, answer.body
        status: dict[str, Any] = answer.json()
        return status

    def node(self, name: str) -> dict[str, Any] | None:
        """A node by its name, None when the router does not know it."""
        return next((n for n in self.status()["nodes"] if n["name"] == name), None)

    def wait_status(
        self, holds: Callable[[dict[str, Any]], bool], what: str, timeout_s: float = 10.0
    ) -> float:
        """Poll `/fleet/status` until it satisfies `holds`; the seconds it took."""

        def check() -> bool:
            self.check_alive()
            try:
                return holds(self.status())
            except OSError:
                return False

        return wait_until(check, timeout_s, what)

    def wait_node(self, name: str, status: str, timeout_s: float = 10.0) -> float:
        """Wait until a node is `online`, `late`, `offline`, …"""
        return self.wait_status(
            lambda fleet: any(n["name"] == name and n["status"] == status for n in fleet["nodes"]),
            f"node {name} to be {status}",
            timeout_s,
        )

    def wait_models(self, *names: str, timeout_s: float = START_S) -> float:
        """Wait until all these models are on usable engines."""

        def has_all(fleet: dict[str, Any]) -> bool:
            known = {
                model
                for node in fleet["nodes"]
                if node["status"] != "offline"
                for engine in node["engines"]
                if not engine["error"]
                for model in engine["models"]
            }
            return known >= set(names)

        return self.wait_status(has_all, f"models {names}", timeout_s)

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        *,
        timeout_s: float = 20.0,
    ) -> Response:
        """One request on a connection of its own."""
        with Client(self.port, self.address, timeout_s) as client:
            client.ask(method, path, body, headers)
            return client.read(method)


class Node(Running):
    """An agent that reports to a router; without its URL it looks for one by mDNS."""

    def __init__(
        self,
        folder: Path,
        name: str,
        router_url: str,
        engines: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
    ) -> None:
        self.home = folder / f"{name}-home"
        command = ["-m", "ollama_herd.cli.node", "--name", name]
        if router_url:
            command += ["--router", router_url]
        for engine in engines:
            command += ["--engine", engine]
        command += ["--relay-port", "0", "--log-level", "debug"]
        own = {"HERD_HOME": str(self.home), **(env or {})}
        super().__init__(name, command, folder, own, prefix)


def wait_until(holds: Callable[[], bool], timeout_s: float, what: str) -> float:
    """Poll until `holds`; the seconds it took. Raises TimeoutError naming `what`."""
    begun_s = clock.monotonic_s()
    while not holds():
        if not in_time(clock.monotonic_s() - begun_s, timeout_s):
            raise TimeoutError(f"waited {timeout_s:g} s for {what}")
        time.sleep(POLL_S)
    return clock.monotonic_s() - begun_s


def free_port(host: str = "127.0.0.1") -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def stopping(*running: Running) -> Iterator[None]:
    """End all of them with the block, in reverse order."""
    with contextlib.ExitStack() as stack:
        for one in running:
            stack.enter_context(one)
        yield


def _group(group_id: int) -> list[int]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError, psutil.Error):
            if os.getpgid(process.pid) == group_id and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found
