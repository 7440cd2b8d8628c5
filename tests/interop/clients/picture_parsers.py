"""Runs command lines through the parsers of the real mflux and diffusionkit; nothing is rendered.

Reads a JSON list of [command, [argument, …]] from the file in argv[1]; prints for each what was
parsed, as JSON.
"""

import argparse
import ast
import importlib
import importlib.metadata
import json
import sys
import types
from pathlib import Path
from typing import Any


class ParsedError(Exception):
    """The command's own parser took the line."""


def mflux(command: str, line: list[str]) -> dict[str, Any]:
    (entry,) = importlib.metadata.entry_points(group="console_scripts", name=command)
    parser = importlib.import_module(entry.module).build_parser()
    sys.argv = [command, *line]
    return vars(parser.parse_args())


def diffusionkit(command: str, line: list[str]) -> dict[str, Any]:
    """Its parser is made inside the command; what else it imports needs torch and is not here."""
    found = importlib.metadata.distribution("diffusionkit")
    package = Path(str(found.locate_file("diffusionkit")))
    checkpoints: dict[str, Any] = {}
    for path in (package / "mlx").glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            names = [t.id for t in getattr(node, "targets", []) if isinstance(t, ast.Name)]
            if "MMDIT_CKPT" in names:
                checkpoints = ast.literal_eval(node.value)  # type: ignore[attr-defined]
    assert checkpoints
    utils, mlx = types.ModuleType("argmaxtools.utils"), types.ModuleType("diffusionkit.mlx")
    vars(utils)["get_logger"] = lambda _name: None
    vars(mlx).update(MMDIT_CKPT=checkpoints, DiffusionPipeline=None, FluxPipeline=None)
    sys.modules |= {"argmaxtools": types.ModuleType("argmaxtools"), "argmaxtools.utils": utils}
    sys.modules |= {"diffusionkit.mlx": mlx}
    seen: dict[str, Any] = {}
    original = argparse.ArgumentParser.parse_args

    def parse_args(self: argparse.ArgumentParser, *_: Any) -> argparse.Namespace:
        seen.update(vars(original(self, line)))
        raise ParsedError

    argparse.ArgumentParser.parse_args = parse_args  # type: ignore[assignment,method-assign]
    script = (package / "mlx" / "scripts" / "generate_images.py").read_text()
    space: dict[str, Any] = {"__name__": "generate_images"}
    exec(compile(script, command, "exec"), space)  # noqa: S102 - the real command
    try:
        space["cli"]()
    except ParsedError:
        return seen
    finally:
        argparse.ArgumentParser.parse_args = original  # type: ignore[method-assign]
    raise AssertionError("the command parsed nothing")


for command, line in json.loads(Path(sys.argv[1]).read_text()):
    parse = mflux if command.startswith("mflux-") else diffusionkit
    sys.stdout.write(json.dumps(parse(command, line), default=str) + "\n")
