"""`herd-node rotate-key`: another key for this node, while it runs."""

from typing import Annotated

import typer

from ollama_herd.agent.errors import AgentError
from ollama_herd.agent.identity import draw_next_key
from ollama_herd.cli import process
from ollama_herd.cli.options import load_or_fail, setting
from ollama_herd.config import NodeSettings


def rotate_key(
    *, home: Annotated[str | None, setting(NodeSettings, "home", "FOLDER")] = None
) -> None:
    """Change the key by which the router knows this node. Nothing stops meanwhile.

    herd-node does it with its next report; one that does not run now does it when it starts.
    """
    settings = load_or_fail(NodeSettings, {"home": home}).settings
    try:
        draw_next_key(settings.home)
    except AgentError as error:
        process.fail(str(error))
    typer.echo("a new key is drawn; herd-node changes to it with its next report")
