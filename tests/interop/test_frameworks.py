"""Frameworks and tools on top of the SDKs, one real task each; only by `make interop`."""

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.interop.conftest import Rig
from tests.interop.environments import CLIENTS, ENVIRONMENTS, HERE, OFFLINE, python_of
from tests.interop.test_sdks import check

pytestmark = [
    pytest.mark.skipif(not os.environ.get("HERD_TEST_INTEROP"), reason="run by `make interop`"),
    pytest.mark.timeout(900),
]

SCRIPTS = {
    "index_ollama": "frameworks",
    "haystack_ollama": "frameworks",
    "pydantic_agent": "frameworks",
    "instructor_openai": "frameworks",
    "litellm_all": "litellm",
    "llm_tool": "litellm",
    "crewai_crew": "crewai",
}
"""Script: the environment it runs in."""

NEEDS_THE_INTERNET = ("test_image_inputs",)
"""Tests of LangChain's suite that download a picture."""


@pytest.mark.parametrize("script", SCRIPTS)
def test_framework(rig: Rig, tmp_path: Path, script: str) -> None:
    check(rig, [python_of(SCRIPTS[script]), CLIENTS / f"{script}.py"], tmp_path)


def test_langchain_suite(rig: Rig, tmp_path: Path) -> None:
    """LangChain's own integration tests, from the source distribution: each ends as directly."""
    direct, through = (_langchain_outcomes(rig, url, tmp_path) for url in (rig.alone.url, rig.url))
    failed = [name for name, outcome in through.items() if outcome in ("FAILED", "ERROR")]
    assert not failed
    assert sum(outcome == "PASSED" for outcome in through.values()) > 70
    assert through == direct


def _langchain_outcomes(rig: Rig, url: str, folder: Path) -> dict[str, str]:
    python, suite = python_of("langchain"), _langchain_tests()
    tests = suite / "tests" / "integration_tests"
    command: list[str | Path] = [python, "-m", "pytest", tests, "-q", "-rA", "--tb=no"]
    command += ["-p", "no:cacheprovider", "--show-capture=no", "--rootdir", suite]
    command += ["-o", "addopts=", "-o", "asyncio_mode=auto"]
    command += ["-k", " and ".join(f"not {name}" for name in NEEDS_THE_INTERNET)]
    env = {"OLLAMA_HOST": url, "PYTHONPATH": str(suite)}
    done = rig.run(command, folder, env, timeout_s=400)
    found = {}
    for line in done.stdout.splitlines():
        outcome, _, rest = line.partition(" ")
        if outcome in ("PASSED", "FAILED", "ERROR", "XPASS", "XFAIL"):
            found[rest.partition(" ")[0]] = outcome
    assert found, done.stdout[-2000:] + done.stderr[-2000:]
    return found


def test_aider(rig: Rig, tmp_path: Path) -> None:
    """It edits a file as the model says. It has no switch for its look at a list of prices."""
    python = python_of("aider")
    (tmp_path / "greet.py").write_text("print('hi')\n")
    said = "greet.py\n```python\nprint('hello Paris')\n```\n"
    command: list[str | Path] = [python, "-m", "aider"]
    command += ["--model", "ollama_chat/llama3.1", "--edit-format", "whole"]
    command += ["--no-git", "--yes-always", "--no-check-update", "--no-analytics", "--no-pretty"]
    command += ["--no-show-model-warnings", "--no-detect-urls", "--map-tokens", "0"]
    command += ["--message", f"Greet Paris. SAY<<{said}>>", "greet.py"]
    done = rig.run(command, tmp_path, {"OLLAMA_API_BASE": rig.url}, timeout_s=240)
    assert (tmp_path / "greet.py").read_text() == "print('hello Paris')\n", (
        done.stdout[-3000:] + done.stderr[-3000:]
    )
    assert set(rig.nowhere.taken()) <= {"CONNECT raw.githubusercontent.com:443"}


def _langchain_tests() -> Path:
    """The unpacked source distribution: the wheel has no tests."""
    pins = HERE / "requirements" / "langchain-sdist.txt"
    folder = ENVIRONMENTS / "langchain-sdist"
    if not list(folder.glob("langchain_ollama-*/tests")):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--no-binary", ":all:", "--require-hashes", "-r", str(pins), "-d", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode and any(words in done.stderr.lower() for words in OFFLINE):
            pytest.skip(f"the package index cannot be reached: {done.stderr[-300:]}")
        assert done.returncode == 0, done.stderr[-2000:]
        with tarfile.open(next(folder.glob("*.tar.gz"))) as packed:
            packed.extractall(folder, filter="data")
    return next(folder.glob("langchain_ollama-*/tests")).parent
