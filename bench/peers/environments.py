"""The routers' own virtual environments under `.venvs/peers/`, made from exact pins."""

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

_PINS = Path(__file__).parent / "requirements"
_ENVIRONMENTS = Path(__file__).parents[2] / ".venvs" / "peers"
_INSTALL_S = 900


def pins(name: str) -> Path:
    """The file of exact versions."""
    return _PINS / f"{name}.txt"


def version(name: str) -> str:
    """The pinned version of the router itself."""
    lines = pins(name).read_text().splitlines()
    pinned = dict(line.split(" ")[0].split("==") for line in lines if "==" in line)
    return str(pinned[name])


def folder(name: str) -> Path:
    return _ENVIRONMENTS / name


def command(name: str, program: str) -> str:
    """The path of a program of that environment."""
    return str(folder(name) / "bin" / program)


def install(name: str) -> None:
    """Make the environment where it is missing or of other pins; RuntimeError when that fails."""
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if uv is None:
        raise RuntimeError("uv is not installed: `make setup` brings it")
    file, target = pins(name), folder(name)
    digest = hashlib.sha256(file.read_bytes() + sys.version.encode()).hexdigest()
    with _locked(target):
        stamp = target / ".pins"
        if stamp.exists() and stamp.read_text() == digest:
            return
        _run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(target)])
        _run([uv, "pip", "install", "--quiet", "-p", str(target), "-r", str(file)])
        stamp.write_text(digest)


@contextlib.contextmanager
def _locked(target: Path) -> Iterator[None]:
    """One installation of an environment at a time, where the system has locks."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_suffix(".lock").open("w") as lock:
        with contextlib.suppress(ImportError):
            import fcntl  # noqa: PLC0415 (not on Windows)

            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(words: list[str]) -> None:
    done = subprocess.run(words, capture_output=True, text=True, timeout=_INSTALL_S, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words[:3])}: {(done.stderr + done.stdout).strip()[-600:]}")
