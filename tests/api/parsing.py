"""Bodies as the router reads them, and the recordings they are held to."""

import json
import re
from typing import Any

from ollama_herd.api.endpoints import INFERENCE, Endpoint
from ollama_herd.api.errors import ApiError
from ollama_herd.api.parse import ParsedBody, read_request

from .recorded import Exchange, every_ollama

ENDPOINTS = sorted(INFERENCE.values(), key=lambda endpoint: endpoint.path)
CHAT = INFERENCE[b"/api/chat"]
GENERATE = INFERENCE[b"/api/generate"]
EMBED = INFERENCE[b"/api/embed"]
V1_CHAT = INFERENCE[b"/v1/chat/completions"]
RESPONSES = INFERENCE[b"/v1/responses"]
MESSAGES = INFERENCE[b"/v1/messages"]

CANNOT = "json: cannot unmarshal"
GO_MAP = "map[string]interface {}"

REFUSED_BEFORE_THE_MODEL = [
    "027",
    "028",
    "029",
    "031",
    "035",
    "056",
    "057",
    "058",
    "060",
    "075",
    "094",
    "148",
    "149",
    "150",
    "151",
    "177",
    "178",
    "212",
    "221",
]
"""Recordings in which a real Ollama refused a body without looking for its model."""


def parsed(endpoint: Endpoint, body: dict[str, Any] | bytes | str) -> ParsedBody:
    if isinstance(body, dict):
        body = json.dumps(body)
    result = read_request(endpoint, body.encode() if isinstance(body, str) else body)
    assert isinstance(result, ParsedBody), result
    return result


def refusal(endpoint: Endpoint, body: bytes | str) -> ApiError:
    result = read_request(endpoint, body.encode() if isinstance(body, str) else body)
    assert isinstance(result, ApiError), result
    return result


def without_request_id(body: bytes) -> bytes:
    return re.sub(rb"req_[0-9a-f]{24}", b"req_", body)


def is_inference(exchange: Exchange) -> bool:
    if not exchange.recording.request.startswith(b"POST ") or not exchange.recording.response:
        return False
    return exchange.path.encode() in INFERENCE and exchange.is_whole


RECORDED = [exchange for exchange in every_ollama() if is_inference(exchange)]


def number_of(exchange: Exchange) -> str:
    return exchange.name.partition("_")[0]
