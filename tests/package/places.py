"""Where a package is built and installed: folders of its own, and a PATH with no Node and no
compiler.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent

TIMEOUT_S = 300
"""For one call of pip or the build; they download a few ten megabytes."""

ON_PATH = ("sh", "env", "uname")
"""All that npm's scripts need of a system, and no compiler."""

_OFFLINE = (
    "No matching distribution found for hatchling",
    "Failed to establish a new connection",
    "Temporary failure in name resolution",
    "npm error network",
    "npm error code EAI_AGAIN",
    "npm error code ENOTFOUND",
)


def is_offline(output: str) -> bool:
    """Whether a build failed because the registries cannot be reached from here."""
    return any(told in output for told in _OFFLINE)


def tracked() -> list[str]:
    """Files of the repository as they are now, those that are not committed yet too."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout.split("\0")
    return sorted(name for name in listed if name and (ROOT / name).is_file())


def check_out(folder: Path) -> Path:
    """A source tree as a fresh clone has it: nothing built, nothing installed."""
    for name in tracked():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    return folder


def narrow_path(folder: Path) -> str:
    """A PATH with what every system has, less Node and compilers."""
    folder.mkdir()
    for name in ON_PATH:
        found = shutil.which(name)
        if found is not None:
            (folder / name).symlink_to(found)
    return str(folder)


def environment(path: str, **more: str) -> dict[str, str]:
    """That of a newcomer's shell: no settings of a herd, no venv of ours."""
    ours = ("HERD_", "OLLAMA_", "PYTHON", "VIRTUAL_ENV", "UV_", "COVERAGE", "PYTEST")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**kept, "PATH": path, "CC": "no-compiler", "CXX": "no-compiler", **more}


class Venv:
    """A virtual environment in `folder` that sees nothing but what is installed into it."""

    def __init__(self, folder: Path, path: str) -> None:
        self.folder = folder
        self._path = path
        subprocess.run([sys.executable, "-m", "venv", folder], check=True, timeout=TIMEOUT_S)

    @property
    def site(self) -> Path:
        """Where packages are."""
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        return self.folder / "lib" / version / "site-packages"

    def program(self, name: str) -> str:
        return str(self.folder / "bin" / name)

    def environment(self, **more: str) -> dict[str, str]:
        return environment(self._path, **more)

    def run(self, name: str, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        """One of its programs, to the end; what it prints on stderr is in `stdout` too."""
        return called([self.program(name), *words], self.environment(**env))

    def pip_install(self, *words: str) -> str:
        """Install and compile nothing; what pip printed."""
        done = self.run("python", "-m", "pip", "install", "--only-binary", ":all:", *words)
        assert done.returncode == 0, done.stdout
        return done.stdout


def called(
    command: Sequence[str], env: dict[str, str], cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run to the end."""
    return subprocess.run(
        command,
        env=env,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
    )
