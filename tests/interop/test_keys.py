"""Clients at a herd with API keys: they find the place to say theirs, and understand a refusal."""

import json
import subprocess
import sys
from pathlib import Path

from tests.e2e.processes import Herd, Node, wait_until
from tests.interop.engine import TaskOllama, catalogue, settings
from tests.interop.environments import CLIENTS, python_of, run
from tests.interop.test_sdks import steps


def test_the_vendors_packages_say_their_key(tmp_path: Path) -> None:
    with (
        TaskOllama(catalogue(), settings=settings()).in_thread() as engine,
        Herd(tmp_path).ready() as herd,
        Node(tmp_path, "a", f"http://127.0.0.1:{herd.port}", [engine.url]),
    ):
        herd.wait_models("llama3.1:latest")
        key = _new_key(herd.home)
        wait_until(lambda: herd.call("GET", "/api/tags").status == 401, 20, "keys to be asked for")
        url = f"http://127.0.0.1:{herd.port}"
        done = run([python_of("sdks"), CLIENTS / "with_key.py", url, key], tmp_path, {})
        assert key not in herd.log()
    told = steps(done.stdout)
    assert list(told) == ["answers", "refusals"], done.stderr[-2000:]
    assert all(json.loads(told["answers"].removeprefix("ok ")))
    refusals = json.loads(told["refusals"].removeprefix("ok "))
    assert [status for _, status in refusals] == [401, 401, 401]


def _new_key(home: Path) -> str:
    command = [sys.executable, "-m", "ollama_herd.cli.herd", "keys", "create", "interop", "--json"]
    made = subprocess.run(
        [*command, "--home", str(home)], capture_output=True, text=True, timeout=60, check=True
    )
    return str(json.loads(made.stdout)["key"])
