"""What `herd` offers: one line for each subcommand; each has its own file."""

from typing import Annotated, Any, ClassVar

import typer

from ollama_herd import __version__
from ollama_herd.cli.lazy import LazyGroup
from ollama_herd.cli.options import setting
from ollama_herd.config import RouterSettings


class HerdCommands(LazyGroup):
    """Every subcommand of `herd`."""

    lazy: ClassVar[dict[str, str]] = {
        "status": "ollama_herd.cli.status:status",
        "top": "ollama_herd.cli.top:top",
        "health": "ollama_herd.cli.health:health",
        "nodes": "ollama_herd.cli.nodes:app",
        "models": "ollama_herd.cli.models:models",
        "pull": "ollama_herd.cli.pull:pull",
        "rm": "ollama_herd.cli.pull:remove",
        "traces": "ollama_herd.cli.traces:traces",
        "explain": "ollama_herd.cli.explain:explain",
        "pin": "ollama_herd.cli.pins:pin",
        "unpin": "ollama_herd.cli.pins:unpin",
        "pins": "ollama_herd.cli.pins:pins",
        "simulate": "ollama_herd.cli.simulate:simulate",
        "bench": "ollama_herd.cli.bench:bench",
        "whatif": "ollama_herd.cli.whatif:whatif",
        "keys": "ollama_herd.cli.keys:app",
        "service": "ollama_herd.cli.service:app",
        "doctor": "ollama_herd.cli.doctor:doctor",
        "tls": "ollama_herd.cli.tls:app",
        "config": "ollama_herd.cli.config:config",
        "demo": "ollama_herd.cli.demo:demo",
    }


app = typer.Typer(
    cls=HerdCommands,
    help="One endpoint in front of every machine that runs Ollama.",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _option(name: str, metavar: str | None = None) -> Any:
    return setting(RouterSettings, name, metavar)


def _show_version(asked: bool) -> None:  # noqa: FBT001 - the signature is Typer's
    if asked:
        typer.echo(f"herd {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def herd(  # noqa: PLR0913 - a parameter an option
    context: typer.Context,
    *,
    host: Annotated[str | None, _option("host", "ADDRESS")] = None,
    port: Annotated[str | None, _option("port", "PORT")] = None,
    home: Annotated[str | None, _option("home", "FOLDER")] = None,
    join: Annotated[str | None, _option("join", "auto|key|approve")] = None,
    tls_cert: Annotated[str | None, _option("tls_cert", "FILE")] = None,
    tls_key: Annotated[str | None, _option("tls_key", "FILE")] = None,
    engine: Annotated[list[str] | None, _option("engine", "[NAME=]URL")] = None,
    no_mdns: Annotated[
        bool,
        typer.Option("--no-mdns", metavar="", help="do not announce the router (HERD_MDNS=false)"),
    ] = False,
    log_level: Annotated[str | None, _option("log_level", "LEVEL")] = None,
    version: Annotated[  # noqa: ARG001 - its callback does the work
        bool, typer.Option("--version", metavar="", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Start the router, or run a command."""
    flags = {
        "host": host,
        "port": port,
        "home": home,
        "join": join,
        "tls_cert": tls_cert,
        "tls_key": tls_key,
        "engine": engine,
        "mdns": False if no_mdns else None,
        "log_level": log_level,
    }
    if context.invoked_subcommand is None:
        from ollama_herd.cli import router  # noqa: PLC0415 - only what is asked for is loaded

        router.start(flags)
    elif any(value is not None for value in flags.values()):
        raise typer.BadParameter(f"give options after '{context.invoked_subcommand}'")
