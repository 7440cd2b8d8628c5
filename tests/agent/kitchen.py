"""A machine with commands that make pictures and weights for them, as far as anybody can see."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]


def install(folder: Path, *commands: str) -> Path:
    """Stand-ins for commands, in a folder for PATH."""
    place = folder / "bin"
    place.mkdir(exist_ok=True)
    body = (ROOT / "tests" / "agent" / "stand_in.py").read_text()
    for command in commands:
        path = place / command
        path.write_text(f"#!{sys.executable}\n{body}")
        path.chmod(0o755)
    return place


def fetch(folder: Path, *repositories: str) -> Path:
    """A Hugging Face cache that has these repositories, whole."""
    cache = folder / "hub"
    for repository in repositories:
        snapshot = cache / f"models--{repository.replace('/', '--')}" / "snapshots" / "abc"
        snapshot.mkdir(parents=True)
        (snapshot / "model.safetensors").write_bytes(b"w" * 1000)
    return cache


def environment(folder: Path, **more: str) -> Mapping[str, str]:
    """What finds them, and what the stand-ins need to run."""
    return {
        "PATH": os.pathsep.join([str(folder / "bin"), os.environ["PATH"]]),
        "HF_HUB_CACHE": str(folder / "hub"),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")]),
        "STAND_IN_LOG": str(folder / "log"),
        **more,
    }


def is_running(pid: int) -> bool:
    """Whether a process works; one that only nobody has asked for its status yet does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
