"""The processes of a demo: started apart from the terminal, watched, and all ended together."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ollama_herd.clock import monotonic_s

_END_S = 5.0
"""Our commands end within this time; what has not is killed."""


class Child:
    """`python -m ollama_herd.cli.child ROLE ARGUMENTS`, with its output in `log`."""

    def __init__(self, name: str, role: str, arguments: Sequence[str], log: Path) -> None:
        self.name = name
        self._log = log
        # -P: a file of the user's folder must not be taken for one of Python's modules.
        command = [sys.executable, "-P", "-m", "ollama_herd.cli.child", role, *arguments]
        with log.open("wb") as output:
            self._process = subprocess.Popen(  # noqa: S603 - our own module
                command,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=_environment(),
                **_own_group(),
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def has_said(self, text: str) -> bool:
        """Whether `text` is in what it has printed."""
        return text.encode() in self._log.read_bytes()

    def last_words(self, lines: int = 8) -> str:
        """The end of what it printed."""
        text = self._log.read_text(encoding="utf-8", errors="replace")
        return "\n".join(text.strip().splitlines()[-lines:])

    def release(self) -> None:
        """Tell it to end: its stdin ends, see `lifeline`."""
        if self._process.stdin is not None:
            self._process.stdin.close()

    def end(self, deadline_s: float) -> None:
        """Wait for its end until `deadline_s` (monotonic), then kill it and its group."""
        try:
            self._process.wait(max(deadline_s - monotonic_s(), 0.0))
        except subprocess.TimeoutExpired:
            self._kill_group()
            self._process.wait()

    def kill(self) -> None:
        """End it at once, as a crash or a pulled plug would."""
        self._kill_group()
        self._process.wait()

    def _kill_group(self) -> None:
        if sys.platform == "win32":
            self._process.kill()
        else:
            os.killpg(self._process.pid, signal.SIGKILL)


def end_all(children: Sequence[Child]) -> None:
    """None of them runs afterwards."""
    deadline_s = monotonic_s() + _END_S
    for child in children:
        child.release()
    for child in children:
        child.end(deadline_s)


def _environment() -> dict[str, str]:
    """Ours without the user's HERD_* settings, which are meant for their own herd."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HERD_")}
    return kept | {"PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1"}


def _own_group() -> dict[str, Any]:
    """Ctrl-C in the terminal is for the parent, which then ends its children in order."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    else:  # a type checker follows platforms only so
        return {"start_new_session": True}
