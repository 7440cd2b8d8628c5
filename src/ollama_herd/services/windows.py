"""Windows: a task of the Task Scheduler that starts when the user logs on.

Not a service in Windows' own sense: those run as a machine account and are installed by
administrators only, and the engines they would serve run in the user's session.
"""

import subprocess
from collections.abc import Sequence

from ollama_herd.services.job import Job, ServiceError, State, call, tried


class TaskScheduler:
    """The tasks of the user who runs this."""

    def install(self, job: Job) -> Sequence[str]:
        task = _task(job.name)
        command = subprocess.list2cmdline(job.command)
        if len(command) > 261:  # schtasks /TR takes no more
            raise ServiceError("the command is too long for the Task Scheduler: use herd.toml")
        call("schtasks", "/Create", "/F", "/SC", "ONLOGON", "/RL", "LIMITED", "/TN", task,
             "/TR", command)  # fmt: skip
        call("schtasks", "/Run", "/TN", task)
        return [f"see it in the Task Scheduler as {task}"]

    def uninstall(self, name: str) -> None:
        tried("schtasks", "/End", "/TN", _task(name))
        call("schtasks", "/Delete", "/F", "/TN", _task(name))

    def state(self, name: str) -> State:
        asked = tried("schtasks", "/Query", "/FO", "LIST", "/TN", _task(name))
        return State(name, asked.returncode == 0, "Running" in asked.stdout)


def _task(name: str) -> str:
    return f"ollama-{name}"
