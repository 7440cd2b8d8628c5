"""The vendors' own packages and a real model: the embedded engine answers all three dialects."""

import json
from pathlib import Path

from tests.e2e.real import NEEDS_ENGINE, real_herd
from tests.interop.environments import CLIENTS, python_of, run
from tests.interop.nowhere import nowhere
from tests.interop.test_sdks import steps

pytestmark = NEEDS_ENGINE


def test_every_package_gets_real_answers(tmp_path: Path) -> None:
    python = python_of("sdks")
    with real_herd(tmp_path) as herd, nowhere() as door:
        url = f"http://127.0.0.1:{herd.port}"
        done = run([python, CLIENTS / "real_model.py", url], tmp_path, door.env)
        assert door.taken() == []
    told = steps(done.stdout)
    assert len(told) == 11, done.stdout + done.stderr[-2000:]
    wrong = {
        name: result
        for name, result in told.items()
        if not result.startswith("ok ") or not all(json.loads(result.removeprefix("ok ")))
    }
    assert not wrong
