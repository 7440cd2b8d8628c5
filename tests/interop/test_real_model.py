"""The vendors' own packages and engines that are no Ollama: the embedded one with a real model, and
one that knows nothing of Anthropic's dialect.
"""

import json
from pathlib import Path

from tests.e2e.processes import Herd, Node
from tests.e2e.real import NEEDS_ENGINE, real_herd
from tests.fakes.openai_engine import FakeOpenAI
from tests.interop.environments import CLIENTS, python_of, run
from tests.interop.nowhere import nowhere
from tests.interop.test_sdks import script_of, steps


def check(herd: Herd, command: list[str | Path], count: int, folder: Path) -> None:
    """Every step of the script ends with nothing but true claims."""
    with nowhere() as door:
        url = f"http://127.0.0.1:{herd.port}"
        done = run([*command, url], folder, door.env)
        assert door.taken() == []
    told = steps(done.stdout)
    assert len(told) == count, done.stdout + done.stderr[-2000:]
    wrong = {
        name: result
        for name, result in told.items()
        if not result.startswith("ok ") or not all(json.loads(result.removeprefix("ok ")))
    }
    assert not wrong


class TestRealModel:
    pytestmark = NEEDS_ENGINE

    def test_every_package_gets_real_answers(self, tmp_path: Path) -> None:
        with real_herd(tmp_path) as herd:
            check(herd, _python("real_model.py"), 11, tmp_path)
            check(herd, script_of("node", "real_model_js.mjs"), 13, tmp_path)


def _python(script: str) -> list[str | Path]:
    return [python_of("sdks"), CLIENTS / script]


def test_anthropics_package_and_an_engine_that_does_not_speak_it(tmp_path: Path) -> None:
    with (
        FakeOpenAI("smollm2-135m").in_thread() as engine,
        Herd(tmp_path).ready() as herd,
        Node(tmp_path, "llama", f"http://127.0.0.1:{herd.port}", [engine.url]),
    ):
        herd.wait_models("smollm2-135m")
        check(herd, _python("anthropic_translated.py"), 7, tmp_path)
        assert engine.counters.by_path["/v1/chat/completions"] >= 8
