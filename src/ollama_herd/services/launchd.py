"""macOS: a launch agent of the logged-in user."""

import plistlib
from collections.abc import Sequence
from pathlib import Path

from ollama_herd.services.job import Job, ServiceError, State, call, remove, tried, write

AGENTS = Path("~/Library/LaunchAgents")
LOGS = Path("~/Library/Logs")


class Launchd:
    """The agents of the user with the id `uid`."""

    def __init__(self, uid: int, agents: Path = AGENTS, logs: Path = LOGS) -> None:
        if uid == 0:
            raise ServiceError("a launch agent belongs to a user: run this without sudo")
        self._domain = f"gui/{uid}"
        self._agents = agents.expanduser()
        self._logs = logs.expanduser()

    def install(self, job: Job) -> Sequence[str]:
        path, log = self._path(job.name), self._logs / f"ollama-{job.name}.log"
        tried("launchctl", "bootout", f"{self._domain}/{path.stem}")  # an older one, if any
        write(path, plist(job, path.stem, log))
        call("launchctl", "bootstrap", self._domain, str(path))
        return [f"see what it does: tail -f {log}"]

    def uninstall(self, name: str) -> None:
        path = self._path(name)
        tried("launchctl", "bootout", f"{self._domain}/{path.stem}")
        remove(path)

    def state(self, name: str) -> State:
        path = self._path(name)
        printed = tried("launchctl", "print", f"{self._domain}/{path.stem}")
        running = printed.returncode == 0 and "state = running" in printed.stdout
        return State(name, path.exists(), running, str(path))

    def _path(self, name: str) -> Path:
        return self._agents / f"ollama-herd.{name}.plist"


def plist(job: Job, label: str, log: Path) -> bytes:
    """The text of a launch agent's file."""
    return plistlib.dumps(
        {
            "Label": label,
            "ProgramArguments": list(job.command),
            "RunAtLoad": True,
            "KeepAlive": True,
            "ThrottleInterval": 2,
            "ProcessType": "Interactive",  # else macOS slows its sockets and timers down
            "StandardOutPath": str(log),
            "StandardErrorPath": str(log),
            "SoftResourceLimits": {"NumberOfFiles": 65536},
        }
    )
