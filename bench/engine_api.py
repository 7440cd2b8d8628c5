"""The other answers of the fake engine: what an agent or a router probes, and the bench's own."""

import json

import wire

DETAILS = {
    "parent_model": "",
    "format": "gguf",
    "family": "llama",
    "families": ["llama"],
    "parameter_size": "3.2B",
    "quantization_level": "Q4_K_M",
}
MODEL = {
    "name": wire.MODEL,
    "model": wire.MODEL,
    "modified_at": "2026-01-01T00:00:00Z",
    "size": 2_000_000_000,
    "digest": "b" * 64,
    "details": DETAILS,
    "capabilities": ["completion", "tools"],
}
"""As an entry of `/api/tags`."""
_LOADED = {
    **{key: value for key, value in MODEL.items() if key not in ("modified_at", "capabilities")},
    "expires_at": "2099-01-01T00:00:00Z",
    "size_vram": 2_000_000_000,
    "context_length": 4096,
}
_ANSWERS = {
    b"GET /health": {"status": "ok"},
    b"GET /v1/models": {
        "object": "list",
        "data": [{"id": wire.MODEL, "object": "model", "created": 0, "owned_by": "library"}],
    },
    b"GET /api/version": {"version": "0.13.0"},
    b"GET /api/tags": {"models": [MODEL]},
    b"GET /api/ps": {"models": [_LOADED]},
    b"POST /api/show": {
        "details": DETAILS,
        "model_info": {"general.architecture": "llama", "llama.context_length": 4096},
        "capabilities": ["completion", "tools"],
    },
}


class Stats:
    """What a measurement asks for afterwards."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.requests = 0
        self.flood_bytes = 0  # sent at full speed: how much a proxy takes for a slow client
        self.closed_us: dict[int, int] = {}  # unfinished answers whose connection was closed


def answer_get(data: bytes, stats: Stats) -> bytes:
    """The whole response to a request other than /api/chat."""
    route = b" ".join(data.split(b" ", 2)[:2])
    if route == b"GET /bench/reset":
        stats.reset()
        return _json(b"200 OK", {})
    if route == b"GET /bench/stats":
        return _json(
            b"200 OK",
            {
                "requests": stats.requests,
                "flood_bytes": stats.flood_bytes,
                "closed_us": stats.closed_us,
            },
        )
    if route in _ANSWERS:
        return _json(b"200 OK", _ANSWERS[route])
    return _json(b"404 Not Found", {"error": "not found"})


def _json(status: bytes, value: object) -> bytes:
    body = json.dumps(value).encode()
    return (
        b"HTTP/1.1 %s\r\nContent-Type: application/json; charset=utf-8\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (status, len(body), body)
    )
