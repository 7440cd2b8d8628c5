"""`herd service` and `herd-node service`: keep the program running, from login or boot on."""

import os
import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from ollama_herd.cli.lazy import Commands
from ollama_herd.cli.process import fail
from ollama_herd.services.job import Job, ServiceError, Services

RunAs = Annotated[
    str | None,
    typer.Option(
        "--run-as",
        metavar="USER",
        help="as a service of the system, started at boot, as this user (Linux, with sudo)",
    ),
]
Home = Annotated[str | None, typer.Option("--home", metavar="FOLDER", help="the program's home")]
Json = Annotated[bool, typer.Option("--json", metavar="", help="print JSON")]

NOT_RUNNING = 3
"""Exit status of `status` for a service that does not run, as systemctl's."""


def services_here(run_as: str | None) -> Services:
    """The services of this operating system. Raises ServiceError."""
    if sys.platform == "darwin":
        from ollama_herd.services.launchd import Launchd  # noqa: PLC0415 - one of three is used

        _refuse(run_as)
        return Launchd(os.getuid())
    elif sys.platform == "win32":
        from ollama_herd.services.windows import TaskScheduler  # noqa: PLC0415

        _refuse(run_as)
        return TaskScheduler()
    else:  # a type checker follows platforms only so
        from ollama_herd.services.systemd import Systemd  # noqa: PLC0415

        return Systemd(run_as, uid=os.geteuid())


def _refuse(run_as: str | None) -> None:
    if run_as is not None:
        raise ServiceError("--run-as is for Linux; here the service belongs to you")


def program(name: str) -> str:
    """Where the program of this installation is. Raises ServiceError."""
    suffix = ".exe" if sys.platform == "win32" else ""
    path = Path(sys.executable).parent / f"{name}{suffix}"
    if not path.exists():
        raise ServiceError(
            f"{path} does not exist; install first: run uv tool install . in the checkout"
        )
    return str(path)


def service_app(name: str, description: str) -> typer.Typer:
    """The commands for one program."""
    made = Commands(help=f"Keep {name} running, from login or boot on.", no_args_is_help=True)

    @made.command()
    def install(*, home: Home = None, run_as: RunAs = None) -> None:
        """Install the service and start it. Settings are read from the file in its home."""
        _install(name, description, home, run_as)

    @made.command()
    def uninstall(*, run_as: RunAs = None) -> None:
        """Stop the service and remove it. Its home with all data stays."""
        _uninstall(name, run_as)

    @made.command()
    def status(*, run_as: RunAs = None, as_json: Json = False) -> None:
        """Whether the service is installed and runs; exit status 3 when it does not run."""
        _status(name, run_as, as_json=as_json)

    return made


def _install(name: str, description: str, home: str | None, run_as: str | None) -> None:
    try:
        command = [program(name)]
        if home is not None:
            command += ["--home", str(Path(home).expanduser().absolute())]
        services = services_here(run_as)
        hints = services.install(Job(name, description, tuple(command)))
        typer.echo(f"{name} is installed and started: {services.state(name).file or name}")
    except ServiceError as error:
        fail(str(error))
    for hint in hints:
        typer.echo(f"  {hint}")


def _uninstall(name: str, run_as: str | None) -> None:
    try:
        services_here(run_as).uninstall(name)
    except ServiceError as error:
        fail(str(error))
    typer.echo(f"{name} is no service any more; its home was left as it is")


def _status(name: str, run_as: str | None, *, as_json: bool) -> None:
    try:
        state = services_here(run_as).state(name)
    except ServiceError as error:
        fail(str(error))
    if as_json:
        typer.echo(msgspec.json.encode(state))
    elif state.installed:
        typer.echo(f"{name} {'runs' if state.running else 'does not run'} ({state.file})")
    else:
        typer.echo(f"{name} is not installed as a service: {name} service install")
    raise typer.Exit(0 if state.running else NOT_RUNNING)


app = service_app("herd", "Ollama Herd, the router")
node_app = service_app("herd-node", "Ollama Herd, the agent of this machine")
