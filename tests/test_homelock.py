"""One process of a kind for a home, freed by the system however the holder ended."""

import subprocess
import sys
from pathlib import Path

import pytest

from ollama_herd.homelock import HomeInUseError, HomeLock

HOLD = """
import sys, pathlib
from ollama_herd.homelock import HomeLock
with HomeLock(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_holder_is_told_who_has_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout is not None
    with other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(HomeInUseError) as caught, HomeLock(path):
            pass
        assert caught.value.pid == other.pid
        assert str(path) in str(caught.value)
        other.kill()
    with HomeLock(path):
        assert path.exists()


def test_it_can_be_taken_again_after_it_was_given_back(tmp_path: Path) -> None:
    for _ in range(2):
        with HomeLock(tmp_path / "lock"), pytest.raises(HomeInUseError):
            HomeLock(tmp_path / "lock").__enter__()


def test_a_folder_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), HomeLock(tmp_path / "none" / "lock"):
        pass
