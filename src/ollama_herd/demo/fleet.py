"""Starts the processes of a demo and waits until the herd is whole."""

import os
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from ollama_herd.clock import monotonic_s
from ollama_herd.demo.children import Child, end_all
from ollama_herd.demo.engine import Engine
from ollama_herd.demo.loopback import FAILURES, get_json

_POLL_S = 0.05
_START_S = 60.0
"""A slow machine loads Python three times and a model twice; nothing takes longer."""

_ROUTER = "router"
_LISTENS = "herd is listening"
_PORT_TAKEN = "is in use"
"""What the router's command says when it is up, and when it cannot be."""


class StartError(Exception):
    """A process did not start; the text has what it said last."""


class DemoFleet:
    """Router, nodes and engines in one folder; all gone after the block."""

    def __init__(self, folder: Path, wanted_port: int) -> None:
        self._folder = folder
        self._children: list[Child] = []
        self.port = free_port(wanted_port)
        self.nodes: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        end_all(self._children)

    def start_router(self) -> None:
        """The real command, on loopback only and without mDNS: a demo joins nobody's network."""
        address = ["--host", "127.0.0.1", "--port", str(self.port), "--no-mdns"]
        self._start(_ROUTER, "herd", address)

    def wait_for_router(self) -> None:
        """Until it listens. Only its own word counts: another herd may answer on the port."""
        self._wait("the router starts", lambda: self._router().has_said(_LISTENS))

    def start_engines(self, model: Path, alias: str, count: int) -> list[str]:
        """Embedded engines; returns their URLs once all of them answer."""
        files = [self._folder / f"engine-{number}.url" for number in range(count)]
        for number, file in enumerate(files):
            arguments = Engine(model, alias, file).arguments()
            self._spawn(_engine_name(number), "engine", arguments)
        self._wait("the engines load the model", lambda: all(file.exists() for file in files))
        return [file.read_text() for file in files]

    def start_node(self, name: str, engine_url: str) -> None:
        """The real command, with an engine of its own."""
        arguments = ["--router", self.url, "--engine", engine_url, "--relay-port", "0"]
        self._start(name, "herd-node", [*arguments, "--name", name])
        self.nodes.append(name)

    def kill_engine(self, node: str) -> None:
        """The engine of one node dies without a word; the others must do without it."""
        name = _engine_name(self.nodes.index(node))
        (child,) = (child for child in self._children if child.name == name)
        self._children.remove(child)
        child.kill()

    def wait_for(self, model: str) -> None:
        """Until each node has joined with `model`."""
        self._wait("the nodes join the herd", lambda: self._joined(model) >= len(self.nodes))

    def check(self) -> None:
        """Raises StartError when one of the processes has ended."""
        for child in self._children:
            if child.has_ended:
                raise StartError(f"{child.name} has ended; it said:\n{child.last_words()}")

    def _router(self) -> Child:
        return next(child for child in self._children if child.name == _ROUTER)

    def _move_router(self) -> None:
        """To another port, when another program, maybe another demo, was quicker to take its."""
        router = self._router()
        if router.has_ended and router.has_said(_PORT_TAKEN):
            self._children.remove(router)
            router.release()
            self.port = free_port(0)
            self.start_router()

    def _joined(self, model: str) -> int:
        try:
            nodes = get_json(f"{self.url}/fleet/status")["nodes"]
        except FAILURES:
            return 0  # not listening yet
        return sum(any(model in engine["models"] for engine in node["engines"]) for node in nodes)

    def _start(self, name: str, role: str, arguments: Sequence[str]) -> None:
        home = self._folder / name
        self._spawn(name, role, [*arguments, "--home", str(home)])

    def _spawn(self, name: str, role: str, arguments: Sequence[str]) -> None:
        self._children.append(Child(name, role, arguments, self._folder / f"{name}.log"))

    def _wait(self, what: str, done: Callable[[], bool]) -> None:
        deadline_s = monotonic_s() + _START_S
        while not done():
            self._move_router()
            self.check()
            if monotonic_s() > deadline_s:
                said = "\n".join(f"{c.name}: {c.last_words(3)}" for c in self._children)
                raise StartError(f"{what}: not done after {_START_S:g} s. They said:\n{said}")
            time.sleep(_POLL_S)  # none of them tells when it is ready: they are looked at


def _engine_name(number: int) -> str:
    return f"engine-{number}"


def free_port(wanted: int) -> int:
    """`wanted` on loopback, or any free port when a program has it."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        if probe.connect_ex(("127.0.0.1", wanted)) == 0:
            wanted = 0
    with socket.socket() as probe:
        if os.name == "posix":  # a port that was in use a moment ago is free
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            return free_port(0)
        return int(probe.getsockname()[1])
