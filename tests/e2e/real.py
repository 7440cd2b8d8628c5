"""A herd whose only node has the embedded engine with a real small model.

Needs the `demo` extra and the path of a small chat model in HERD_TEST_GGUF.
"""

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.processes import Herd, Node, Running, wait_until

GGUF = os.environ.get("HERD_TEST_GGUF", "")
SERVE = "import sys; from ollama_herd.demo.engine import main; main(sys.argv[1:])"

NEEDS_ENGINE = [
    pytest.mark.engine,
    pytest.mark.skipif(
        importlib.util.find_spec("xllamacpp") is None, reason="the demo extra is not installed"
    ),
    pytest.mark.skipif(not Path(GGUF).is_file(), reason="HERD_TEST_GGUF names no model file"),
]


@contextmanager
def real_herd(folder: Path) -> Iterator[Herd]:
    """Node `real` serves the model under the name `smollm2`."""
    url_file = folder / "engine.url"
    arguments = ["--model", GGUF, "--alias", "smollm2", "--url-file", str(url_file)]
    with Running("engine", ["-c", SERVE, *arguments], folder, {}) as engine:
        wait_until(lambda: _has_url(engine, url_file), 60, "the engine to load its model")
        with Herd(folder).ready() as running:
            url = f"http://127.0.0.1:{running.port}"
            with Node(folder, "real", url, [url_file.read_text().strip()]):
                running.wait_status(lambda s: s["models"] > 0, "the model", 30)
                yield running


def _has_url(engine: Running, url_file: Path) -> bool:
    engine.check_alive()
    return url_file.exists()
