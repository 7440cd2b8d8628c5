"""A running router: started, waited for until it answers, ended with all its processes."""

import contextlib
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import psutil

import nginx
import procs
import wire
import wire_openai
from herd import Herd
from peers.heartbeats import Heartbeats
from peers.kinds import OLLAMA, OPENAI, Kind, Place

_ASK = {OLLAMA: wire.request, OPENAI: wire_openai.request}


class Server:
    """`port` answers for two engines; `process` is the one to account."""

    def __init__(
        self,
        kind: Kind,
        home: Path,
        engines: Sequence[int],
        *,
        core: int | None = None,
        models: Sequence[str] = (wire.MODEL,),
    ) -> None:
        self.kind = kind
        self._beats: Heartbeats | None = None
        self._own: Herd | nginx.NginxProxy | None = None
        if kind.name == "herd":
            self._own = Herd(home, engines, [], core, models=models)
        elif kind.name == "nginx":
            self._own = nginx.NginxProxy(home, engines, [], core)
        if self._own is not None:
            self.port, self.process = self._own.port, self._own.process
        else:
            self._start(Place(home, procs.free_port(), engines, models), core)
        try:
            self._wait_ready()
        except BaseException:
            self.stop()
            raise

    def _start(self, place: Place, core: int | None) -> None:
        kind, home = self.kind, place.home
        home.mkdir(parents=True, exist_ok=True)
        self.port = place.port
        assert kind.command is not None
        self._log = home / "output.log"
        command = kind.command(place)
        with procs.on_core(core), self._log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                env=kind.surroundings(home),
                cwd=home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            procs.wait_for_port(self.port, self.process, kind.start_s)
            if kind.name == "ollama-herd":
                self._beats = Heartbeats(self.port, place.engines, place.models)
                self._beats.start()
        except (RuntimeError, OSError) as failed:
            self.stop()
            raise RuntimeError(f"{kind.title} did not start: {failed}\n{self._said()}") from failed

    def _said(self) -> str:
        return self._log.read_text(errors="replace")[-1500:] if self._own is None else ""

    def _wait_ready(self) -> None:
        """Until it gives both an answer and a stream; RuntimeError when it does not in time."""
        end_s = time.monotonic() + self.kind.start_s  # noqa: TID251
        got = b""
        while time.monotonic() < end_s:  # noqa: TID251
            got = self._ask()
            if got.startswith(b"HTTP/1.1 200"):
                return
            if self.process.poll() is not None:
                break
            time.sleep(0.1)  # what starts up says so in no other way
        raise RuntimeError(f"{self.kind.title} does not answer: {got[:300]!r}\n{self._said()}")

    def _ask(self) -> bytes:
        request = _ASK[self.kind.dialects[0]](wire.Order(0), self.port)
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)) as s:
            s.settimeout(10)
            s.sendall(request)
            return s.recv(4096)
        return b""

    @property
    def pids(self) -> list[int]:
        return procs.tree(self.process.pid)

    def stop(self) -> None:
        """With what it has started; a router that waits for its clients is killed."""
        family = self._family()
        if self._beats is not None:
            self._beats.stop()
        if self._own is not None:
            self._own.stop()
        else:
            procs.stop(self.process, 3.0)
        for one in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()

    def _family(self) -> list[psutil.Process]:
        """Told apart by their start times too: a number may be another's by now."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(self.process.pid).children(recursive=True)
        return []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
