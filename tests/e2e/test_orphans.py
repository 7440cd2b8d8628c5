"""kill -9 of an agent leaves nothing at work on its machine, whatever it was working on."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent.kitchen import environment, fetch, install, is_running
from tests.agent.test_listener import NAME, PACKAGE, started
from tests.e2e.processes import Herd, Node, wait_until
from tests.e2e.test_media import form
from tests.fakes.raw import Client

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the stand-ins are POSIX scripts")

ENGINE = "http://127.0.0.1:9"
"""Nothing listens there: this node has services only."""


@pytest.fixture
def herd(tmp_path: Path) -> Iterator[Herd]:
    with Herd(tmp_path).ready() as herd:
        yield herd


@pytest.fixture
def node(herd: Herd, tmp_path: Path) -> Iterator[Node]:
    """Makes pictures, and writes down speech; both take for ever."""
    commands = install(tmp_path, "mflux-generate-z-image-turbo")
    script = commands / "mlx-qwen3-asr"
    script.write_text(f"#!{sys.executable}\nfrom mlx_qwen3_asr.cli import main\n")
    script.chmod(0o755)
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "mlx_qwen3_asr.py").write_text(PACKAGE)
    fetch(tmp_path, "Tongyi-MAI/Z-Image-Turbo", "Qwen/Qwen3-ASR-0.6B")
    seen = environment(tmp_path, STAND_IN_STEP_S="60")
    env = {**seen, "PYTHONPATH": f"{tmp_path / 'lib'}:{seen['PYTHONPATH']}"}
    url = f"http://127.0.0.1:{herd.port}"
    with Node(tmp_path, "n", url, [ENGINE], env=env) as node:
        herd.wait_models(NAME, "z-image-turbo")
        yield node


def test_speech_that_is_written_down(herd: Herd, node: Node, tmp_path: Path) -> None:
    content_type, body = form({"model": NAME}, b"slow")
    with Client(herd.port) as client:
        headers = {"Content-Type": content_type}
        client.ask("POST", "/v1/audio/transcriptions", body, headers)
        wait_until(lambda: bool(started(tmp_path)), 20, "the recogniser to begin")
        (recogniser,) = started(tmp_path)
        assert is_running(recogniser)
        node.popen.kill()
        wait_until(lambda: not is_running(recogniser), 5, "the recogniser to be gone")


def test_speech_that_waits_for_the_next(herd: Herd, node: Node, tmp_path: Path) -> None:
    content_type, body = form({"model": NAME}, b"good")
    headers = {"Content-Type": content_type}
    answer = herd.call("POST", "/v1/audio/transcriptions", body, headers)
    assert (answer.status, answer.json()) == (200, {"text": "good"})
    (recogniser,) = started(tmp_path)
    assert is_running(recogniser)  # kept warm
    node.popen.kill()
    wait_until(lambda: not is_running(recogniser), 5, "the recogniser to be gone")
