"""What the recognisers' adapters call, held to the real packages."""

from pathlib import Path

from tests.interop.environments import CLIENTS, python_of, run


def test_qwen3_asr(tmp_path: Path) -> None:
    python = python_of("speech", "--no-deps")
    done = run([python, CLIENTS / "speech_packages.py"], tmp_path, {"HF_HUB_OFFLINE": "1"})
    assert done.stdout.split("\n")[:2] == ["ok mlx-qwen3-asr", "ok qwen-asr"], done.stderr[-2000:]
