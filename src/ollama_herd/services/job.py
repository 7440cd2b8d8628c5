"""What is to run as a service, and what every operating system's services have in common."""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import msgspec

TIMEOUT_S = 60.0
"""For one call of the system's own tool; starting a service waits for nothing of ours."""


class ServiceError(Exception):
    """The service cannot be made, removed or asked for. The text says why and what to do."""


class Job(msgspec.Struct, frozen=True):
    """One program. `name` is `herd` or `herd-node`; `command` starts with an absolute path."""

    name: str
    description: str
    command: tuple[str, ...]


class State(msgspec.Struct, frozen=True):
    """`file` is where the system keeps the service, "" where that is no file of ours."""

    name: str
    installed: bool
    running: bool
    file: str = ""


class Services(Protocol):
    """The services of one operating system."""

    def install(self, job: Job) -> Sequence[str]:
        """Keep the job running from now on; what else the user may want to do. ServiceError."""
        ...

    def uninstall(self, name: str) -> None:
        """Stop it and forget it; nothing else is removed. ServiceError, also if there is none."""
        ...

    def state(self, name: str) -> State:
        """Whether it is there and runs. ServiceError."""
        ...


def call(*command: str) -> None:
    """Run the system's own tool. Raises ServiceError with what it said."""
    done = tried(*command)
    if done.returncode:
        said = (done.stderr or done.stdout).strip() or f"exit status {done.returncode}"
        raise ServiceError(f"{' '.join(command)}: {said}")


def tried(*command: str) -> subprocess.CompletedProcess[str]:
    """The same, whatever its exit status. Raises ServiceError when it cannot be run at all."""
    try:
        return subprocess.run(  # noqa: S603 - the system's own tools, no shell
            command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except FileNotFoundError:
        raise ServiceError(
            f"this system has no {command[0]}; start the program from what starts yours"
        ) from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ServiceError(f"{' '.join(command)}: {error}") from None


def write(path: Path, content: bytes) -> None:
    """A service's file, for its owner to change. Raises ServiceError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        raise ServiceError(f"{path} cannot be written: {error.strerror}") from None


def remove(path: Path) -> None:
    """Raises ServiceError when there is no such file."""
    try:
        path.unlink()
    except FileNotFoundError:
        raise ServiceError(f"there is no such service: {path} does not exist") from None
    except OSError as error:
        raise ServiceError(f"{path} cannot be removed: {error.strerror}") from None
