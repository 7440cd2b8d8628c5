"""Folders for one piece of work, removed with it; what a killed agent left, at the next start."""

import shutil
import tempfile
from pathlib import Path

_PREFIX = "herd-"


def new_work(folder: Path) -> Path:
    """A new folder in `folder`, for its user's eyes only."""
    folder.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=folder))


def clear_work(folder: Path) -> None:
    """Remove what `new_work` made in `folder`, and nothing else."""
    for work in folder.glob(f"{_PREFIX}*"):
        shutil.rmtree(work, ignore_errors=True)
