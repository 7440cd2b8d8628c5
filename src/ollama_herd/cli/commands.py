"""What `herd` offers: one line for each subcommand; each has its own file."""

from typing import Annotated, Any

import typer

from ollama_herd import __version__
from ollama_herd.cli import demo, explain, keys, router, simulate
from ollama_herd.cli.options import setting
from ollama_herd.config import RouterSettings

app = typer.Typer(
    help="One endpoint in front of every machine that runs Ollama.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command("demo")(demo.demo)
app.command("explain")(explain.explain)
app.command("simulate")(simulate.simulate)
app.add_typer(keys.app, name="keys")


def _option(name: str, metavar: str | None = None) -> Any:
    return setting(RouterSettings, name, metavar)


def _show_version(asked: bool) -> None:  # noqa: FBT001 - the signature is Typer's
    if asked:
        typer.echo(f"herd {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def herd(
    context: typer.Context,
    *,
    host: Annotated[str | None, _option("host", "ADDRESS")] = None,
    port: Annotated[str | None, _option("port", "PORT")] = None,
    home: Annotated[str | None, _option("home", "FOLDER")] = None,
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
        "mdns": False if no_mdns else None,
        "log_level": log_level,
    }
    if context.invoked_subcommand is None:
        router.start(flags)
    elif any(value is not None for value in flags.values()):
        raise typer.BadParameter(f"give options after '{context.invoked_subcommand}'")
