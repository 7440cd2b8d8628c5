"""`herd demo`: a herd on this machine that answers a real prompt."""

import io
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from platform import machine
from types import FrameType
from typing import Annotated, NamedTuple

import typer
from rich.console import Console

from ollama_herd.cli.download import have_model
from ollama_herd.cli.options import load_or_fail, setting
from ollama_herd.cli.process import fail
from ollama_herd.config import RouterSettings
from ollama_herd.demo import chat, engine, local_ollama, model
from ollama_herd.demo.fleet import DemoFleet, StartError

_NODES = ("node-a", "node-b")
_CHECK_S = 0.5

_NO_ENGINE = (
    "there is no Ollama with a chat model on this machine, and the embedded engine is not "
    "installed. Either install Ollama (https://ollama.com/download) and run 'ollama pull "
    "smollm2:135m', or run uv tool install '.[demo]' or pip install '.[demo]' in the checkout"
)


def _no_wheel() -> str:
    return (
        "there is no Ollama with a chat model on this machine, and the embedded engine (xllamacpp) "
        f"has no wheel for {sys.platform} on {machine()}. Install Ollama "
        "(https://ollama.com/download) and run 'ollama pull smollm2:135m', or compile the engine, "
        "which takes minutes: pip install xllamacpp"
    )


class Plan(NamedTuple):
    """What answers: a local Ollama, or the embedded engine with the model in `gguf`."""

    model: str
    thinks: bool = False
    ollama_url: str = ""
    gguf: Path | None = None


def demo(
    *,
    once: Annotated[
        bool, typer.Option("--once", metavar="", help="end after the answer, leave nothing running")
    ] = False,
    failover: Annotated[
        bool,
        typer.Option("--failover", metavar="", help="kill the node that answers, in mid-answer"),
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", metavar="", help="download the model without asking")
    ] = False,
    home: Annotated[str | None, setting(RouterSettings, "home", "FOLDER")] = None,
) -> None:
    """Show a herd at work on this machine: a real model answers a real prompt through it."""
    settings = load_or_fail(RouterSettings, {"home": home}).settings
    console = _console()
    _take_signals()
    answered = False
    try:
        folder = settings.home / "demo"
        plan = _plan(console, folder, may_download=yes, is_local_used=not failover)
        with (
            tempfile.TemporaryDirectory(
                prefix="ollama-herd-demo-", ignore_cleanup_errors=True
            ) as scratch,
            DemoFleet(Path(scratch), settings.port) as fleet,
        ):
            _start(console, fleet, plan, settings.port)
            _ask(console, fleet, plan, Cut(fleet) if failover else None)
            answered = True
            if not once:
                _stay(console, fleet, plan)
    except (StartError, chat.ChatError) as error:
        fail(f"the demo failed: {error}")
    except KeyboardInterrupt:
        raise typer.Exit(0 if answered else 130) from None


def _plan(console: Console, folder: Path, *, may_download: bool, is_local_used: bool) -> Plan:
    local = local_ollama.find() if is_local_used else None
    if local is not None:
        console.print(f"Ollama runs at {local.url}; its model {local.name} will answer.")
        return Plan(local.name, local.thinks, local.url)
    if is_local_used:
        console.print("No Ollama with a chat model runs here; the embedded engine will answer.")
    else:
        console.print("Two embedded engines will answer; one of them will be killed.")
    if not engine.is_installed():
        fail(_NO_ENGINE if engine.has_wheel(sys.platform, machine()) else _no_wheel())
    return Plan(model.NAME, gguf=have_model(console, folder, may_download=may_download))


def _start(console: Console, fleet: DemoFleet, plan: Plan, wanted_port: int) -> None:
    with console.status("starting the router and its nodes"):
        fleet.start_router()
        urls = [plan.ollama_url]
        if plan.gguf is not None:
            urls = fleet.start_engines(plan.gguf, plan.model, len(_NODES))
        fleet.wait_for_router()
        for name, url in zip(_NODES, urls, strict=False):
            fleet.start_node(name, url)
        fleet.wait_for(plan.model)
    if wanted_port not in (0, fleet.port):
        console.print(f"Port {wanted_port} is in use; the demo takes {fleet.port}.")
    names = " and ".join(fleet.nodes)
    console.print(f"The herd is up at {fleet.url}: {names} with {plan.model}.\n")


_CUT_AFTER = 10
"""Pieces of the answer that come from the node that is killed then."""


class Cut:
    """Kills the engine of the node that answers, in the middle of its answer."""

    def __init__(self, fleet: DemoFleet) -> None:
        self._fleet = fleet
        self._pieces = 0
        self.node = ""

    def began(self, node: str) -> None:
        self.node = node

    def passes(self) -> bool:
        """Count a piece; whether the node was killed behind it."""
        self._pieces += 1
        if self._pieces != _CUT_AFTER:
            return False
        self._fleet.kill_engine(self.node)
        return True


def _ask(console: Console, fleet: DemoFleet, plan: Plan, cut: Cut | None = None) -> None:
    console.print(f"[bold]> {chat.PROMPT}[/bold]\n")
    waiting = console.status("waiting for the first token")
    waiting.start()

    def show(piece: str) -> None:
        waiting.stop()
        console.print(piece, end="", markup=False)
        if cut is not None and cut.passes():
            console.print("[bold red]||[/bold red]", end="")

    body = chat.request_body(plan.model, thinks=plan.thinks)
    try:
        if cut is None:
            answer = chat.ask(fleet.url, body, show)
        else:
            answer = chat.ask(fleet.url, body, show, cut.began)
    finally:
        waiting.stop()
        console.print("\n")
    if cut is not None:
        others = " and ".join(node for node in fleet.nodes if node != cut.node)
        console.print(
            f"[bold red]||[/bold red] here the engine of [bold]{cut.node}[/bold] was killed; "
            f"[bold]{others}[/bold] went on with the same answer."
        )
        return
    console.print(
        f"[bold]{answer.node}[/bold] answered: first token after {answer.ttft_s:.2f} s, "
        f"{answer.tokens} tokens at {answer.tokens_per_s:.0f} tokens/s."
    )


def _stay(console: Console, fleet: DemoFleet, plan: Plan) -> None:
    body = json.dumps({"model": plan.model, "messages": [{"role": "user", "content": "Hello"}]})
    console.print(
        f"""
Dashboard        {fleet.url}/dashboard
Ollama API       {fleet.url}
OpenAI base URL  {fleet.url}/v1
Fleet status     {fleet.url}/fleet/status

Try:  curl {fleet.url}/api/chat -d '{body}'

Ctrl-C ends the demo.""",
        markup=False,
    )
    while True:
        fleet.check()
        time.sleep(_CHECK_S)


def _console() -> Console:
    if isinstance(sys.stdout, io.TextIOWrapper):  # a Windows pipe cannot write every character
        sys.stdout.reconfigure(errors="replace")
    return Console(highlight=False, soft_wrap=True)


def _take_signals() -> None:
    """The first signal unwinds, and with it all children end; a second one ends at once.

    The children then follow by themselves: their stdin ends with this process.
    """
    signalled: list[int] = []

    def stop(number: int, _frame: FrameType | None, /) -> None:
        signalled.append(number)
        if len(signalled) > 1:
            os._exit(128 + number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
