"""A node changes its own key while it serves."""

import hashlib
import json
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

from tests.e2e.processes import Herd, Node, wait_until
from tests.fakes.models import model
from tests.fakes.ollama import FakeOllama
from tests.fakes.state import Settings

ASK = {"model": "tiny", "prompt": "Say hi", "stream": False}


def key_of(node: Node) -> str:
    return str(json.loads((node.home / "node.json").read_text())["node_key"])


def bound(herd: Herd) -> str:
    """The hash by which the router knows its only node, as on the disk."""
    with sqlite3.connect(herd.home / "herd.db") as database:
        ((key_hash,),) = database.execute("select key_hash from node_keys").fetchall()
    return str(key_hash)


def rotate(node: Node) -> None:
    command = [sys.executable, "-m", "ollama_herd.cli.node", "rotate-key", "--home", str(node.home)]
    subprocess.run(command, check=True, timeout=60, capture_output=True)


def test_a_node_changes_its_key_and_serves_on(tmp_path: Path) -> None:
    engine = FakeOllama([model("tiny")], Settings(is_frozen=True, num_parallel=4))
    with engine.in_thread(), Herd(tmp_path).ready() as herd:
        url = f"http://127.0.0.1:{herd.port}"
        with Node(tmp_path, "a", url, [engine.url]) as node:
            herd.wait_models("tiny:latest")
            old = key_of(node)
            statuses: list[int] = []
            done = threading.Event()

            def ask() -> None:
                while not done.is_set():
                    statuses.append(herd.call("POST", "/api/generate", ASK).status)

            asking = threading.Thread(target=ask)
            asking.start()
            try:
                rotate(node)
                wait_until(lambda: key_of(node) != old, 20, "another key")
                seen = len(statuses)
                wait_until(lambda: len(statuses) > seen + 3, 20, "answers after it")
            finally:
                done.set()
                asking.join()
            new = key_of(node)
            assert set(statuses) == {200}
            assert bound(herd) == hashlib.sha256(new.encode()).hexdigest()
            assert not (node.home / "node.next.json").exists()
            assert old not in node.log() + herd.log()
            assert new not in node.log() + herd.log()
            report = {"node_id": herd.status()["nodes"][0]["node_id"], "boot": 1, "seq": 1}
            refused = herd.call(
                "POST", "/fleet/heartbeat", report, {"Authorization": f"Bearer {old}"}
            )
            assert refused.status == 403
            assert "another key" in refused.json()["error"]
            herd.wait_node("a", "online")


def test_a_lost_answer_does_not_lock_a_node_out(tmp_path: Path) -> None:
    """The router has taken the new key, and the agent died before it heard of that."""
    engine = FakeOllama([model("tiny")], Settings(is_frozen=True, num_parallel=4))
    with engine.in_thread(), Herd(tmp_path).ready() as herd:
        url = f"http://127.0.0.1:{herd.port}"
        with Node(tmp_path, "a", url, [engine.url]) as node:
            herd.wait_models("tiny:latest")
            node.kill()
            rotate(node)
            following = json.loads((node.home / "node.next.json").read_text())
            new_hash = hashlib.sha256(following["node_key"].encode()).hexdigest()
            headers = {
                "Authorization": f"Bearer {key_of(node)}",
                "X-Herd-Next-Key": new_hash,
            }
            report = {"node_id": following["node_id"], "boot": 2**45, "seq": 1, "leaving": True}
            answer = herd.call("POST", "/fleet/heartbeat", report, headers)
            assert answer.json()["is_key_changed"]
            assert bound(herd) == new_hash
        with Node(tmp_path, "a", url, [engine.url]) as node:
            wait_until(lambda: key_of(node) == following["node_key"], 30, "the new key")
