"""The embedded engine: llama.cpp's HTTP server (PyPI `xllamacpp`) in a process of its own."""

import argparse
import importlib.util
import threading
from pathlib import Path
from typing import Any, NamedTuple

MODULE = "xllamacpp"

_WHEELS = {"linux": ("x86_64", "aarch64"), "win32": ("AMD64",)}


class Engine(NamedTuple):
    """What one engine serves. `url_file` is where it writes its address once it answers."""

    model: Path
    alias: str
    url_file: Path
    slots: int = 2
    context_length: int = 2048  # of all slots together

    def arguments(self) -> list[str]:
        """The arguments from which `main` makes the same value again."""
        return [
            *("--model", str(self.model), "--alias", self.alias),
            *("--url-file", str(self.url_file)),
            *("--slots", str(self.slots), "--context-length", str(self.context_length)),
        ]


def has_wheel(system: str, machine: str) -> bool:
    """Whether PyPI has it ready to run for `sys.platform` and `platform.machine()`; those named in
    the extra `demo` of pyproject.toml.
    """
    return system == "darwin" or machine in _WHEELS.get(system, ())


def is_installed() -> bool:
    """Whether the extra `demo` is there."""
    return importlib.util.find_spec(MODULE) is not None


def main(arguments: list[str]) -> None:
    """Serve until the process ends."""
    parser = argparse.ArgumentParser(prog="engine")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--alias", required=True)
    parser.add_argument("--url-file", type=Path, required=True)
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--context-length", type=int, default=2048)
    engine = Engine(**vars(parser.parse_args(arguments)))
    try:
        server = serve(engine)  # held until the end: it stops when nobody holds it
    except ImportError as error:  # slim systems lack the one library that its wheel does not hold
        raise SystemExit(
            f"the embedded engine cannot be loaded: {error}. "
            "If libgomp.so.1 is missing: apt install libgomp1 (Debian, Ubuntu), dnf install libgomp"
        ) from None
    part = engine.url_file.with_suffix(".part")
    part.write_text(server.listening_address)
    part.replace(engine.url_file)  # whoever sees the file sees all of it
    threading.Event().wait()


def serve(engine: Engine) -> Any:
    """The started server, which works in its own threads; `listening_address` is its URL."""
    import xllamacpp  # noqa: PLC0415 - an extra

    params = xllamacpp.CommonParams()
    params.model.path = str(engine.model)
    params.model_alias = {engine.alias}
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_parallel = engine.slots
    params.n_ctx = engine.context_length
    params.n_gpu_layers = 0
    # One thread: two engines share this machine, and llama.cpp's threads spin while they wait.
    params.cpuparams.n_threads = 1
    params.cpuparams_batch.n_threads = 1
    params.embedding = True
    params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    params.ui = False
    params.verbosity = 1  # errors; more would print prompts
    return xllamacpp.Server(params)
