"""Open WebUI in front of the herd, used in a real browser; only by `make interop`."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.processes import free_port, wait_until
from tests.fakes.raw import exchange
from tests.interop.conftest import Rig
from tests.interop.engine import TaskOllama
from tests.interop.environments import CLIENTS, closed_env, node, node_modules, python_of, run
from tests.interop.test_sdks import steps

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")

pytestmark = [
    pytest.mark.skipif(not os.environ.get("HERD_TEST_INTEROP"), reason="run by `make interop`"),
    pytest.mark.skipif(not CHROMIUM, reason="chromium is not installed: name it in CHROMIUM"),
    pytest.mark.skipif(
        sys.version_info[:2] not in ((3, 11), (3, 12)), reason="open-webui wants Python 3.11, 3.12"
    ),
    pytest.mark.timeout(900),
]

START_S = 240
HEALTH = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
OFFLINE = {
    "OFFLINE_MODE": "true",
    "HF_HUB_OFFLINE": "1",
    "ENABLE_VERSION_UPDATE_CHECK": "false",
    "SCARF_NO_ANALYTICS": "true",
    "ENABLE_OPENAI_API": "false",
}


def test_a_chat(rig: Rig, tmp_path: Path) -> None:
    with open_webui(rig, tmp_path) as url:
        folder = node_modules("browser")
        for script in ("steps.mjs", "open_webui.mjs"):
            shutil.copy(CLIENTS / script, folder)
        command = [node(), folder / "open_webui.mjs", url, tmp_path / "chat.png"]
        done = run(command, tmp_path, {"CHROMIUM": str(CHROMIUM)}, timeout_s=400)
    told = steps(done.stdout)
    names = ["deepseek-r1:1.5b", "gpt-oss:20b", "llama3.1:latest", "nomic-embed-text:latest"]
    assert told == {
        "models": f"ok {json.dumps(names, separators=(',', ':'))}",
        "tool": "ok true",
        "answer": 'ok "Bonjour"',
        "kept": 'ok "Bonjour"',
        "document": "ok true",
        "stayed_here": "ok []",
    }, done.stderr[-2000:]
    embedded = [body for engine in rig.engines for body in _asked(engine, "/api/embed")]
    assert any(b"The herd grazes in Paris." in body for body in embedded)


def _asked(engine: TaskOllama, path: str) -> list[bytes]:
    return [body for _, target, _, body in engine.state.requests if target == path]


@contextlib.contextmanager
def open_webui(rig: Rig, folder: Path) -> Iterator[str]:
    """Its server, told nothing but the herd's address: its URL."""
    port, log = free_port(), folder / "open-webui.log"
    own = {
        "OLLAMA_BASE_URL": rig.url,
        "RAG_EMBEDDING_ENGINE": "ollama",
        "RAG_EMBEDDING_MODEL": "nomic-embed-text",
        "WEBUI_AUTH": "false",
        "WEBUI_SECRET_KEY": "x" * 32,
        "DATA_DIR": str(folder / "data"),
        **OFFLINE,
    }
    # Torch is left out on purpose.
    program = python_of("open-webui", "--no-deps").with_name("open-webui")
    with log.open("wb") as out:
        server = subprocess.Popen(
            [program, "serve", "--host", "127.0.0.1", "--port", str(port)],
            cwd=folder,
            env=closed_env(folder, {**rig.nowhere.env, **own}),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        )
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        assert server.poll() is None, log.read_text(errors="replace")[-3000:]
        with contextlib.suppress(OSError):
            return exchange(port, HEALTH).status == 200
        return False

    try:
        wait_until(answers, START_S, "Open WebUI to answer")
        yield url
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait(10)
