"""What the recognisers' adapters call, held to the real packages; prints `ok` a call that fits.

mlx-qwen3-asr is imported. qwen-asr needs torch, so the signatures are read from its source.
"""

import ast
import importlib.metadata
import inspect
import sys
from pathlib import Path

import mlx_qwen3_asr
from mlx_qwen3_asr.transcribe import TranscriptionResult


def bound(function, *args, **more) -> None:
    inspect.signature(function).bind(*args, **more)


def source_of(package: str, path: str) -> ast.Module:
    found = importlib.metadata.distribution(package).locate_file(path)
    return ast.parse(Path(str(found)).read_text())


def parameters(tree: ast.Module, owner: str, name: str) -> list[str]:
    (kind,) = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == owner]
    (method,) = [n for n in kind.body if isinstance(n, ast.FunctionDef) and n.name == name]
    return [argument.arg for argument in (*method.args.args, *method.args.kwonlyargs)]


def fields(tree: ast.Module, owner: str) -> list[str]:
    (kind,) = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == owner]
    return [n.target.id for n in kind.body if isinstance(n, ast.AnnAssign)]


session = mlx_qwen3_asr.Session
bound(session.__init__, None, "Qwen/Qwen3-ASR-0.6B")
bound(session.transcribe, None, "a.wav", context="", language=None, return_chunks=True)
assert {"text", "language", "segments", "chunks"} <= set(TranscriptionResult.__annotations__)
commands = importlib.metadata.entry_points(group="console_scripts")
assert {"mlx-qwen3-asr", "qwen-asr-demo"} <= {command.name for command in commands}
sys.stdout.write("ok mlx-qwen3-asr\n")

tree = source_of("qwen-asr", "qwen_asr/inference/qwen3_asr.py")
exported = source_of("qwen-asr", "qwen_asr/__init__.py")
names = [a.name for n in exported.body if isinstance(n, ast.ImportFrom) for a in n.names]
assert "Qwen3ASRModel" in names
assert {"pretrained_model_name_or_path", "max_new_tokens"} <= set(
    parameters(tree, "Qwen3ASRModel", "from_pretrained")
)
assert {"audio", "context", "language"} <= set(parameters(tree, "Qwen3ASRModel", "transcribe"))
assert {"text", "language"} <= set(fields(tree, "ASRTranscription"))
sys.stdout.write("ok qwen-asr\n")
