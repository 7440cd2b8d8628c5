"""`python -m ollama_herd.cli.child ROLE …`: a process of the demo that ends with its parent."""

import sys

from ollama_herd.demo import engine, lifeline


def main() -> None:
    """Become what the first argument says."""
    lifeline.hold()
    role = sys.argv[1]
    sys.argv = [role, *sys.argv[2:]]
    if role == "engine":
        engine.main(sys.argv[1:])
    elif role == "herd":
        from ollama_herd.cli import herd  # noqa: PLC0415 - only what this role needs

        herd.main()
    else:
        from ollama_herd.cli import node  # noqa: PLC0415

        node.main()


if __name__ == "__main__":
    main()
