"""Linux: a unit of the user's own systemd, or of the system's when that is asked for."""

import getpass
import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from string import Template

from ollama_herd.services.job import Job, ServiceError, State, call, remove, tried, write

SYSTEM_UNITS = Path("/etc/systemd/system")


class Systemd:
    """`run_as`: the system's systemd, which starts at boot, with the service as that user; None:
    the user's own, from login to logout. `uid` is who asks.
    """

    def __init__(self, run_as: str | None = None, *, uid: int, units: Path | None = None) -> None:
        self._run_as = run_as
        self._scope = () if run_as else ("--user",)
        self._units = units or (SYSTEM_UNITS if run_as else _user_units())
        if run_as is None and uid == 0:
            raise ServiceError(
                "as root, say whose service it is to be: --run-as USER (it then starts at boot)"
            )
        if run_as is not None and uid != 0:
            raise ServiceError("only root can install a service of the system: use sudo")

    def install(self, job: Job) -> Sequence[str]:
        path = self._path(job.name)
        write(path, unit(job, self._run_as).encode())
        call("systemctl", *self._scope, "daemon-reload")
        call("systemctl", *self._scope, "enable", path.name)
        call("systemctl", *self._scope, "restart", path.name)
        log = f"journalctl {'--user ' if not self._run_as else ''}-u {path.name} -f"
        hints = [f"see what it does: {log}"]
        if not self._run_as:
            user = getpass.getuser()
            hints.append(
                f"keep it running while nobody is logged in: loginctl enable-linger {user}"
            )
        return hints

    def uninstall(self, name: str) -> None:
        path = self._path(name)
        if path.exists():
            call("systemctl", *self._scope, "disable", "--now", path.name)
        remove(path)
        call("systemctl", *self._scope, "daemon-reload")

    def state(self, name: str) -> State:
        path = self._path(name)
        active = tried("systemctl", *self._scope, "is-active", "--quiet", path.name)
        return State(name, path.exists(), active.returncode == 0, str(path))

    def _path(self, name: str) -> Path:
        return self._units / f"ollama-{name}.service"


def unit(job: Job, run_as: str | None) -> str:
    """The text of a unit file."""
    template = resources.files("ollama_herd.services").joinpath("systemd.unit").read_text("utf-8")
    return Template(template).substitute(
        description=job.description,
        command=" ".join(map(_quoted, job.command)),
        user=f"User={run_as}" if run_as else "# As the user whose systemd reads this.",
        target="multi-user.target" if run_as else "default.target",
    )


def _quoted(word: str) -> str:
    """One word of a command as systemd reads it (systemd.service(5), "Command lines")."""
    if "\n" in word or "\0" in word:
        raise ServiceError(f"a service's command cannot hold a line break: {word!r}")
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"'


def _user_units() -> Path:
    config = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(config).expanduser() / "systemd" / "user"
