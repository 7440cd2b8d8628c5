"""The heartbeats of two nodes of ollama-herd: the bench speaks for them, as it does for ours."""

import json
import sys
import threading
import urllib.request
from collections.abc import Sequence
from typing import Any

import engine_api

INTERVAL_S = 5.0  # its nodes' default
_PARALLEL = 64
"""Slots a node reports: more than the load has in flight, fewer than would be unlikely."""


def heartbeat(
    number: int, engine: int, models: Sequence[str], parallel: int = _PARALLEL
) -> dict[str, Any]:
    """What a node of ollama-herd posts, with all its models loaded."""
    loaded = {
        "size_gb": 0.5,
        "parameter_size": "3.2B",
        "quantization": "Q4_K_M",
        "context_length": 4096,
    }
    meta = {
        "modified_at": engine_api.MODEL["modified_at"],
        "digest": engine_api.MODEL["digest"],
        "capabilities": engine_api.MODEL["capabilities"],
        **engine_api.DETAILS,
    }
    return {
        "node_id": f"bench-{number}",
        "arch": "x86_64",
        "cpu": {"cores_physical": 16, "utilization_pct": 5.0},
        "memory": {"total_gb": 64.0, "used_gb": 16.0, "available_gb": 48.0},
        "disk": {"total_gb": 1000.0, "used_gb": 500.0, "available_gb": 500.0},
        "ollama": {
            "models_loaded": [{"name": name, **loaded} for name in models],
            "models_available": list(models),
            "models_available_meta": dict.fromkeys(models, meta),
            "models_available_sizes": dict.fromkeys(models, 0.5),
            "max_loaded_models": 3,
            "num_parallel": parallel,
            "version": "0.13.0",
        },
        "ollama_host": f"http://127.0.0.1:{engine}",
        "lan_ip": "127.0.0.1",
    }


class Heartbeats:
    """Posts them until it is stopped."""

    def __init__(self, port: int, engines: Sequence[int], models: Sequence[str]) -> None:
        self._url = f"http://127.0.0.1:{port}/heartbeat"
        self._bodies = [
            json.dumps(heartbeat(number, engine, models)).encode()
            for number, engine in enumerate(engines)
        ]
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def start(self) -> None:
        """The first ones now; OSError when they are not taken."""
        self._post()
        self._thread.start()

    def _beat(self) -> None:
        while not self._stopped.wait(INTERVAL_S):
            try:
                self._post()
            except OSError as failed:
                print(f"heartbeat of ollama-herd: {failed}", file=sys.stderr)

    def _post(self) -> None:
        for body in self._bodies:
            request = urllib.request.Request(self._url, data=body)  # noqa: S310 - loopback http
            request.add_header("Content-Type", "application/json")
            with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
                answer.read()

    def stop(self) -> None:
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(10)
