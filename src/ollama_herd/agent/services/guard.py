"""Runs a command and ends it, with everything it started, when the agent says so or is gone.

`python -m ollama_herd.agent.services.guard COMMAND ARGUMENTS…`. The agent holds the writing end of
stdin: the system closes it also when the agent was killed, so nothing is left on the device.
"""

import os
import subprocess
import sys
import threading

import psutil


def main() -> int:
    """The command's own exit status; 127 when it cannot be started."""
    try:
        process = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)  # noqa: S603
    except OSError as error:
        sys.stderr.write(f"{sys.argv[1]} cannot be started: {error.strerror}\n")
        return 127
    threading.Thread(target=_end_with_agent, args=(process.pid,), daemon=True).start()
    status = process.wait()
    return status if status >= 0 else 128 - status


def _end_with_agent(pid: int) -> None:
    descriptor = sys.__stdin__.fileno() if sys.__stdin__ else 0
    while os.read(descriptor, 1024):
        pass
    kill_tree(pid)  # `main` then reads its end


def kill_tree(pid: int) -> None:
    """End a process and all below it, at once."""
    try:
        top = psutil.Process(pid)
        everyone = [*top.children(recursive=True), top]
    except psutil.NoSuchProcess:
        return
    for one in everyone:
        try:
            one.kill()
        except psutil.NoSuchProcess:
            continue


if __name__ == "__main__":
    sys.exit(main())
