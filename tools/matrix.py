"""The tests on every Python that is here and that the package is for: `make test-all`.

Each Python has a venv of its own in `.venvs/`, with what `uv.lock` says. One that is not here is in
the table as such: nothing is downloaded but packages. Words given go to pytest.
"""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tools.sources import ROOT

SYNC_TIMEOUT_S = 1800
"""For downloading all packages over a slow line."""

TEST_TIMEOUT_S = 7200
"""The whole suite takes half an hour on two cores, and machines are shared."""


class Outcome(NamedTuple):
    """How the tests went on one Python: `said` is pytest's last line, or why there is none."""

    version: str
    passed: bool | None
    said: str


def versions() -> list[str]:
    """The Pythons of the package's classifiers, as `3.11`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = (re.search(r":: (3\.\d+)$", kind) for kind in project["classifiers"])
    return [match[1] for match in found if match]


def find(version: str) -> str | None:
    """An interpreter of that version: on the PATH, of uv, or of pyenv."""
    return next((path for path in _candidates(version) if _is(path, version)), None)


def _candidates(version: str) -> Iterator[str]:
    on_path = shutil.which(f"python{version}")
    if on_path is not None:
        yield on_path
    yield _printed([_uv(), "python", "find", "--no-project", "--no-python-downloads", version])
    root = _printed(["pyenv", "root"])
    if root:
        yield from sorted(map(str, Path(root).glob(f"versions/{version}.*/bin/python")))


def _is(path: str, version: str) -> bool:
    told = "import sys; print('%d.%d' % sys.version_info[:2])"
    return bool(path) and _printed([path, "-c", told]) == version


def _printed(command: list[str]) -> str:
    """What a command prints; nothing when it fails."""
    try:
        done = subprocess.run(  # noqa: S603 - interpreters and their managers
            command, capture_output=True, text=True, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _uv() -> str:
    beside = Path(sys.executable).parent / "uv"
    return str(beside) if beside.exists() else "uv"


def tried(version: str, words: list[str]) -> Outcome:
    """Install and run; the output of pytest passes through."""
    python = find(version)
    if python is None:
        return Outcome(version, None, "not found: neither on the PATH, nor by uv or pyenv")
    venv = ROOT / ".venvs" / f"python-{version}"
    sync = [_uv(), "sync", "--quiet", "--frozen", "--all-extras", "--all-groups", "--inexact"]
    own = {**os.environ, "UV_PROJECT_ENVIRONMENT": str(venv), "UV_PYTHON_DOWNLOADS": "never"}
    inside = str(venv / ("Scripts" if os.name == "nt" else "bin") / "python")
    # uv's venvs have no pip, with which the tests of the package install it as a user does.
    for command in ([*sync, "--python", python], [inside, "-m", "ensurepip"]):
        try:
            subprocess.run(  # noqa: S603 - uv, and the Python of its venv
                command, cwd=ROOT, env=own, check=True, timeout=SYNC_TIMEOUT_S
            )
        except (OSError, subprocess.SubprocessError) as error:
            return Outcome(version, passed=False, said=f"not installed: {error}")
    return _tested(version, [inside, "-m", "pytest", *words])


def _tested(version: str, command: list[str]) -> Outcome:
    last = ""
    with subprocess.Popen(  # noqa: S603 - pytest
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, errors="replace"
    ) as process:
        for line in process.stdout or ():
            sys.stdout.write(line)
            sys.stdout.flush()
            last = line.strip(" =\n") or last
        passed = process.wait(TEST_TIMEOUT_S) == 0
    return Outcome(version, passed, last)


def table(outcomes: list[Outcome]) -> str:
    """One line for each Python."""
    words = {True: "passed", False: "FAILED", None: "absent"}
    return "\n".join(f"Python {o.version}  {words[o.passed]}  {o.said}" for o in outcomes)


def main() -> None:
    """Exit status 1 when tests failed on any Python, or when there is none of them."""
    outcomes = []
    for version in versions():
        sys.stdout.write(f"\n== Python {version}\n")
        sys.stdout.flush()
        outcomes.append(tried(version, sys.argv[1:]))
    sys.stdout.write(f"\n{table(outcomes)}\n")
    is_fine = any(o.passed for o in outcomes) and all(o.passed is not False for o in outcomes)
    raise SystemExit(0 if is_fine else 1)


if __name__ == "__main__":
    main()
