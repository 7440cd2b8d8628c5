"""`herd-node`: run the agent until a signal comes."""

from typing import Annotated, Any, ClassVar

import typer

from ollama_herd import __version__
from ollama_herd.cli import process
from ollama_herd.cli.lazy import LazyGroup
from ollama_herd.cli.options import load_or_fail, setting
from ollama_herd.config import NodeSettings

_SHUTDOWN_S = 4.9
"""Under the 5 s within which both commands end."""


class NodeCommands(LazyGroup):
    """Every subcommand of `herd-node`."""

    lazy: ClassVar[dict[str, str]] = {
        "service": "ollama_herd.cli.service:node_app",
        "doctor": "ollama_herd.cli.node_doctor:node_doctor",
        "config": "ollama_herd.cli.config:node_config",
        "rotate-key": "ollama_herd.cli.rotate_key:rotate_key",
    }


app = typer.Typer(
    cls=NodeCommands,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _option(name: str, metavar: str) -> Any:
    return setting(NodeSettings, name, metavar)


def _show_version(asked: bool) -> None:  # noqa: FBT001 - the signature is Typer's
    if asked:
        typer.echo(f"herd-node {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def herd_node(  # noqa: PLR0913 - an argument an option
    context: typer.Context,
    *,
    router: Annotated[str | None, _option("router", "URL")] = None,
    engine: Annotated[list[str] | None, _option("engine", "URL")] = None,
    image_engine: Annotated[list[str] | None, _option("image_engine", "URL")] = None,
    speech_engine: Annotated[list[str] | None, _option("speech_engine", "URL")] = None,
    name: Annotated[str | None, _option("name", "NAME")] = None,
    home: Annotated[str | None, _option("home", "FOLDER")] = None,
    router_ca: Annotated[str | None, _option("router_ca", "FILE")] = None,
    join_key: Annotated[str | None, _option("join_key", "KEY")] = None,
    relay_port: Annotated[str | None, _option("relay_port", "PORT")] = None,
    slots: Annotated[str | None, _option("slots", "N")] = None,
    quiet_hours: Annotated[list[str] | None, _option("quiet_hours", "RANGE")] = None,
    log_level: Annotated[str | None, _option("log_level", "LEVEL")] = None,
    version: Annotated[  # noqa: ARG001 - its callback does the work
        bool, typer.Option("--version", metavar="", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Let this machine's engines answer for the herd. The --…engine options may be repeated."""
    flags: dict[str, object] = {
        "router": router,
        "engine": engine,
        "image_engine": image_engine,
        "speech_engine": speech_engine,
        "name": name,
        "home": home,
        "router_ca": router_ca,
        "join_key": join_key,
        "relay_port": relay_port,
        "slots": slots,
        "quiet_hours": quiet_hours,
        "log_level": log_level,
    }
    if context.invoked_subcommand is not None:
        if any(value is not None and value != [] for value in flags.values()):
            raise typer.BadParameter(f"give options after '{context.invoked_subcommand}'")
        return
    settings = load_or_fail(NodeSettings, flags).settings
    process.start_logging(settings)
    with process.held_home(settings.home, "node.lock"):
        from ollama_herd.agent.app import run  # noqa: PLC0415 - slow to load
        from ollama_herd.agent.errors import AgentError  # noqa: PLC0415

        try:
            process.run(lambda: run(settings), shutdown_s=_SHUTDOWN_S)
        except AgentError as error:
            process.fail(str(error))
        except OSError as error:
            process.fail(f"stopped: {error}")
