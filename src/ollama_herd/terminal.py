"""How a line of the log looks to a person at a terminal: by Rich, coloured as the terminal can.

What comes from elsewhere (names, addresses, errors) is text: no markup, and nothing of it steers
the terminal.
"""

from collections.abc import MutableMapping
from typing import Any, TextIO

from rich.console import Console
from rich.text import Text

_LEVELS = {
    "debug": "dim",
    "info": "green",
    "warning": "bold yellow",
    "error": "bold red",
    "critical": "bold white on red",
}


class TerminalRenderer:
    """A processor of structlog, the last one: an event becomes a line, a traceback the lines below.

    Rich's own tracebacks are not used: they show values of variables, and with them prompts.
    """

    def __init__(self, stream: TextIO) -> None:
        self._console = Console(file=stream, highlight=False, markup=False, emoji=False)

    @property
    def is_usable(self) -> bool:
        """False for the consoles of old Windows versions, which take no escape sequences."""
        return not self._console.legacy_windows

    def __call__(self, _logger: Any, _name: str, event: MutableMapping[str, Any]) -> str:
        line = _line(event)
        with self._console.capture() as captured:
            self._console.print(line, soft_wrap=True, end="")
        return captured.get()


def _line(event: MutableMapping[str, Any]) -> Text:
    exception = event.pop("exception", None)
    level = str(event.pop("level", "info"))
    line = Text(str(event.pop("timestamp", "")), style="", end="")
    line.stylize("dim")
    line.append(f" {level:<8}", style=_LEVELS.get(level, ""))
    line.append(" ")
    line.append(_plain(str(event.pop("event", ""))), style="bold")
    for key, value in event.items():
        line.append(f"  {_plain(key)}=", style="cyan")
        line.append(_plain(value if isinstance(value, str) else repr(value)))
    if exception:
        line.append("\n" + "\n".join(map(_plain, str(exception).splitlines())))
    return line


def _plain(text: str) -> str:
    return "".join(c if c.isprintable() else "\ufffd" for c in text)
