"""The herd with a compiled core, as `COMPILE_CORE=1 pip install .` makes it."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent

_BUILD_S = 600
"""A minute in most places; the build tools are downloaded first."""


def unpacked(folder: Path) -> Path | str:
    """Where its package is, to stand first on PYTHONPATH; else why it could not be made."""
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(_ROOT)]
    try:
        done = subprocess.run(
            command,
            env={**os.environ, "COMPILE_CORE": "1", "SKIP_DASHBOARD": "1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=_BUILD_S,
        )
    except subprocess.TimeoutExpired:
        return f"the build did not end in {_BUILD_S} s"
    if done.returncode:
        said = (done.stdout + done.stderr).strip().splitlines()
        return next((line for line in said if line.startswith("RuntimeError")), said[-1])
    (wheel,) = folder.glob("*.whl")
    site = folder / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return site
