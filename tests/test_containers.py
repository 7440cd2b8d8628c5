"""The container files: linted, and in step with the programs they start."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
HADOLINT = Path(sys.executable).parent / "hadolint"


@pytest.mark.skipif(not HADOLINT.exists(), reason="hadolint has no wheel for this platform")
def test_the_dockerfile_is_sound() -> None:
    done = subprocess.run(
        [str(HADOLINT), str(ROOT / "Dockerfile")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_image_gets_what_the_build_needs() -> None:
    """What `COPY` names exists and is not ignored."""
    let_in = [line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line[0] == "!"]
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    copied = [word for line in lines if line.startswith("COPY ") for word in line.split()[1:-1]]
    assert copied
    for name in copied:
        assert (ROOT / name).exists()
        assert name in let_in


def test_the_services_start_our_programs() -> None:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    for service in services.values():
        program, *flags = service["command"]
        path = shutil.which(program, path=str(Path(sys.executable).parent))
        assert path is not None
        names = [flag.partition("=")[0] for flag in flags]
        told = subprocess.run(
            [path, "--help"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
            env={"COLUMNS": "300", "NO_COLOR": "1", "PATH": str(Path(path).parent)},
        ).stdout
        assert all(name in told for name in names)
