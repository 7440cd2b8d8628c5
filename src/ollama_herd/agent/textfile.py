"""Small files of the system, read whole."""

from pathlib import Path


def read_text(path: Path) -> str:
    """The content; empty when there is no such file or it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def read_number(path: Path) -> int | None:
    """A file that holds one count; None when it does not."""
    text = read_text(path).strip()
    return int(text) if text.isascii() and text.isdigit() else None
