"""Coding agents, each with one file to write by a tool of its own; only by `make interop`."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.interop.conftest import Rig
from tests.interop.environments import node, node_modules

pytestmark = [
    pytest.mark.skipif(not os.environ.get("HERD_TEST_INTEROP"), reason="run by `make interop`"),
    pytest.mark.timeout(900),
]

GREETING = "print('hello Paris')\n"
VARIES = re.compile(r"Chunk ID: \w+|[\d.]+ seconds")
"""What a tool says differently each time."""

Started = tuple[list[str | Path], dict[str, str]]
"""A command and its environment."""


def asked(tool: str, arguments: dict[str, str]) -> str:
    """A prompt for which the model calls the tool."""
    return f"Write greet.py. CALL<<{tool} {json.dumps(arguments)}>>"


def writes(rig: Rig, folder: Path, agent: Callable[[str, Path], Started]) -> None:
    """The agent has the file written and tells what its tool said, directly and by the herd."""
    told = []
    for url in (rig.alone.url, rig.url):
        own = folder / f"from{len(told)}"
        own.mkdir()
        command, env = agent(url, own)
        done = rig.run(command, own, env, timeout_s=240)
        report = done.stdout[-3000:] + done.stderr[-3000:]
        assert (own / "greet.py").exists(), report
        assert (own / "greet.py").read_text() == GREETING, report
        assert "The tool says:" in done.stdout, report
        told.append(VARIES.sub("", done.stdout.replace(str(own), "")))
    assert told[0] == told[1]


def test_continue(rig: Rig, tmp_path: Path) -> None:
    """It asks its maker for its newest version, and has no switch for that."""

    def command(url: str, folder: Path) -> Started:
        model = {"name": "herd", "provider": "ollama", "model": "llama3.1", "apiBase": url}
        model |= {"roles": ["chat"], "capabilities": ["tool_use"]}
        config = {"name": "herd", "version": "0.0.1", "schema": "v1", "models": [model]}
        (folder / "config.yaml").write_text(json.dumps(config))  # JSON is YAML
        prompt = asked("Write", {"filepath": "greet.py", "content": GREETING})
        program = node_modules("continue") / "node_modules/@continuedev/cli/dist/cn.js"
        words = [node(), program, "-p", prompt, "--config", "config.yaml", "--allow", "Write"]
        return words, {"CONTINUE_METRICS_ENABLED": "0", "CONTINUE_CLI_ENABLE_TELEMETRY": "0"}

    writes(rig, tmp_path, command)
    assert set(rig.nowhere.taken()) <= {"CONNECT api.continue.dev:443"}


def test_claude_code(rig: Rig, tmp_path: Path) -> None:
    def command(url: str, folder: Path) -> Started:
        prompt = asked("Write", {"file_path": str(folder / "greet.py"), "content": GREETING})
        program = _coder("@anthropic-ai/claude-code/cli-wrapper.cjs")
        env = {
            "ANTHROPIC_BASE_URL": url,
            "ANTHROPIC_AUTH_TOKEN": "x",
            "ANTHROPIC_MODEL": "llama3.1",
            "ANTHROPIC_DEFAULT_HAIKU_MODEL": "llama3.1",
            "CLAUDE_CODE_MAX_CONTEXT_TOKENS": "32768",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        }
        return [node(), program, "-p", prompt, "--allowedTools", "Write"], env

    writes(rig, tmp_path, command)


CODEX = """
model = "llama3.1"
model_provider = "herd"
check_for_update_on_startup = false
[model_providers.herd]
name = "herd"
base_url = "URL/v1"
wire_api = "responses"
[analytics]
enabled = false
[features]
plugins = false
"""


@pytest.mark.parametrize("way", ["provider", "oss"])
def test_codex(rig: Rig, tmp_path: Path, way: str) -> None:
    """By a provider of its configuration, and as the Ollama that it knows by itself."""

    def command(url: str, folder: Path) -> Started:
        home = folder / "codex"
        home.mkdir()
        (home / "config.toml").write_text(CODEX.replace("URL", url if way == "provider" else ""))
        text = GREETING.strip()
        prompt = asked("exec_command", {"cmd": f'echo "{text}" > greet.py'})
        words = [node(), _coder("@openai/codex/bin/codex.js"), "exec", "--skip-git-repo-check"]
        words += ["--dangerously-bypass-approvals-and-sandbox"]
        if way == "oss":
            words += ["--oss", "--local-provider", "ollama", "-m", "llama3.1:latest"]
        return [*words, prompt], {"CODEX_HOME": str(home), "CODEX_OSS_BASE_URL": f"{url}/v1"}

    writes(rig, tmp_path, command)


def _coder(program: str) -> Path:
    return node_modules("coders") / "node_modules" / program
