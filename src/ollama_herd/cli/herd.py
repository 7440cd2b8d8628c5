"""The command `herd`: without a subcommand it is the router."""

import sys

from ollama_herd import __version__


def main() -> None:
    """Entry point. `--version` answers without loading anything else."""
    if sys.argv[1:] == ["--version"]:
        print(f"herd {__version__}")  # noqa: T201 - the answer
        return
    from ollama_herd.cli import interrupts  # noqa: PLC0415 - see above

    interrupts.end_at_once()
    from ollama_herd.cli.commands import app  # noqa: PLC0415 - see above

    app(prog_name="herd")


if __name__ == "__main__":
    main()
