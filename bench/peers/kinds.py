"""The routers: what each speaks, how it is started, and what is set otherwise than by default.

Each is started as its documentation says for two engines that are already running. Where a
setting is needed to make it do its best here, or to keep it quiet, it is named in `settings`.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import procs
import wire
import wire_openai
from peers import environments

OLLAMA, OPENAI = "ollama", "openai"
OURS = "Ollama Herd (this project)"
PATHS = {OLLAMA: "/api/chat", OPENAI: "/v1/chat/completions"}


@dataclass(frozen=True)
class Place:
    """Where a router is to run: its folder, its port, the engines behind it."""

    home: Path
    port: int
    engines: Sequence[int]
    models: Sequence[str] = (wire.MODEL,)

    @property
    def urls(self) -> list[str]:
        return [f"http://127.0.0.1:{port}" for port in self.engines]


@dataclass(frozen=True)
class Kind:
    """A router. `package` is empty for those that are not installed from PyPI."""

    name: str
    title: str
    dialects: tuple[str, ...]
    settings: str
    package: str = ""
    command: Callable[[Place], list[str]] | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    start_s: float = 90.0
    has_model_states: bool = False
    """Whether what it has learnt of an engine is kept per model, not for the whole engine."""

    def surroundings(self, home: Path) -> dict[str, str]:
        """An environment in which no settings, keys or home of the user reach it."""
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        quiet = {"DO_NOT_TRACK": "1", "OTEL_SDK_DISABLED": "true", "PYTHONUTF8": "1"}
        return {**kept, "HOME": str(home), **quiet, **self.env}


def _ollama_herd(place: Place) -> list[str]:
    herd = environments.command("ollama-herd", "herd")
    return [herd, "--host", "127.0.0.1", "--port", str(place.port), "--log-level", "WARNING"]


_LITELLM_MODEL = """  - model_name: "{model}"
    litellm_params: {{model: "openai/{model}", api_base: "{url}/v1", api_key: none}}
"""
_LITELLM_REST = """router_settings: {routing_strategy: least-busy, num_retries: 2}
litellm_settings: {telemetry: false}
"""


def litellm_config(place: Place) -> str:
    models = [
        _LITELLM_MODEL.format(model=model, url=url) for model in place.models for url in place.urls
    ]
    return f"model_list:\n{''.join(models)}{_LITELLM_REST}"


def _litellm(place: Place) -> list[str]:
    config = place.home / "config.yaml"
    config.write_text(litellm_config(place))
    program = environments.command("litellm", "litellm")
    where = ["--host", "127.0.0.1", "--port", str(place.port)]
    return [program, "--config", str(config), *where, "--telemetry", "False"]


def _sglang(place: Place) -> list[str]:
    python = environments.command("sglang-router", "python")
    where = ["--host", "127.0.0.1", "--port", str(place.port), "--worker-urls", *place.urls]
    more = ["--prometheus-port", str(procs.free_port()), "--worker-startup-check-interval", "1"]
    return [python, "-m", "sglang_router.launch_router", *where, *more, "--log-level", "warn"]


def _vllm(place: Place) -> list[str]:
    program = environments.command("vllm-router", "vllm-router")
    where = ["--host", "127.0.0.1", "--port", str(place.port), "--worker-urls", *place.urls]
    more = ["--prometheus-port", str(procs.free_port()), "--worker-startup-check-interval", "1"]
    return [program, *where, *more, "--log-level", "warning"]


_BOTH = (OPENAI, OLLAMA)

KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "nginx",
            "nginx",
            _BOTH,
            "one worker, least_conn, kept-alive connections to the engines, proxy_buffering off; "
            "retries as by default",
        ),
        Kind(
            "herd",
            OURS,
            _BOTH,
            "all defaults; no mDNS; the bench posts the heartbeats of two nodes",
        ),
        Kind(
            "ollama-herd",
            "ollama-herd (PyPI)",
            _BOTH,
            "all defaults but telemetry, off by FLEET_TELEMETRY; the bench posts the heartbeats "
            "of two nodes, with OLLAMA_NUM_PARALLEL=64 so that its limit does not queue the load",
            package="ollama-herd",
            command=_ollama_herd,
            env={"FLEET_TELEMETRY": "false", "FLEET_NODE_TELEMETRY": "false"},
            has_model_states=True,
        ),
        Kind(
            "litellm",
            "LiteLLM proxy",
            (OPENAI,),
            "one worker, both engines as openai/ deployments of one model, least-busy, "
            "num_retries 2; telemetry off, price list local, as its production page advises",
            package="litellm",
            command=_litellm,
            env={
                "LITELLM_LOCAL_MODEL_COST_MAP": "True",
                "LITELLM_MODE": "PRODUCTION",
                "LITELLM_LOG": "ERROR",
                "LITELLM_MASTER_KEY": wire_openai.KEY,
            },
            start_s=180.0,
            has_model_states=True,
        ),
        Kind(
            "sglang-router",
            "sglang-router",
            (OPENAI,),
            "all defaults (cache_aware; retries, circuit breaker and health checks on)",
            package="sglang-router",
            command=_sglang,
        ),
        Kind(
            "vllm-router",
            "vllm-router",
            (OPENAI,),
            "all defaults (cache_aware; retries, circuit breaker and health checks on)",
            package="vllm-router",
            command=_vllm,
        ),
    )
}
