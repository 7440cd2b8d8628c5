"""The herd's own routes as OpenAPI describes them: one row each, a new route is a row here.

Types are those that the handlers encode and decode, so that a field has one place.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import msgspec

from ollama_herd.api.fleet_lists import ModelList, NodeEntry, NodeList
from ollama_herd.api.fleet_status import FleetView
from ollama_herd.api.joining import Joining, Waiting
from ollama_herd.core.access import NodeRule
from ollama_herd.core.explanation import Explanation
from ollama_herd.core.health.values import Health
from ollama_herd.core.node import NodeReport, ReportReply
from ollama_herd.core.queue import QueueView
from ollama_herd.dashboard.queries import (
    FORMATS,
    LARGEST_EXPORT,
    LARGEST_LIMIT,
    MAX_TEXT_CHARS,
    STATUSES,
    STEPS,
)
from ollama_herd.router.explain import LARGEST
from ollama_herd.router.joining import Renaming
from ollama_herd.router.pins import AskedPin, PinList
from ollama_herd.router.records import ChangesAnswer, TracePage, TraceView, TrendAnswer

JSON: Final = "application/json"
Schema = dict[str, Any]


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why a request was refused: `error` for people, `code` for programs, `field` what is wrong."""

    error: str
    code: str = ""
    field: str = ""


class Operation(msgspec.Struct, frozen=True):
    """One route. `answer` is what a success holds; `media` its content types where that is no JSON.

    `query` are the schemas of the parameters; a name that ends with `*` has to be given.
    `refusals` are the statuses that the handler answers with a `Problem`.
    """

    answer: type | None = None
    query: Mapping[str, Schema] = MappingProxyType({})
    body: type | None = None
    refusals: tuple[int, ...] = ()
    media: tuple[str, ...] = (JSON,)
    status: int = 200
    needs_key: bool = False


def text(description: str = "") -> Schema:
    """A parameter of bounded length."""
    schema: Schema = {"type": "string", "maxLength": MAX_TEXT_CHARS}
    return {**schema, "description": description} if description else schema


def _number(most: int, least: int = 0) -> Schema:
    return {"type": "integer", "minimum": least, "maximum": most}


_TIME: Final[Schema] = text("seconds since 1970, or RFC 3339 with its offset")
_LIMIT: Final[Schema] = _number(LARGEST_LIMIT, 1)

_FILTERS: Final[Mapping[str, Schema]] = MappingProxyType(
    {
        "from": _TIME,
        "until": _TIME,
        **dict.fromkeys(("model", "node", "client", "key", "tag", "error"), text()),
        "status": {"enum": list(STATUSES)},
        "before": text("`next` of the page before"),
    }
)

OPERATIONS: Final[Mapping[tuple[str, str], Operation]] = MappingProxyType(
    {
        ("GET", "/fleet/status"): Operation(FleetView),
        ("GET", "/fleet/queue"): Operation(QueueView),
        ("GET", "/fleet/explain"): Operation(
            Explanation,
            {
                "model*": {"type": "string", "minLength": 1},
                "prompt_tokens": _number(LARGEST),
                "max_tokens": _number(LARGEST),
                "num_ctx": _number(LARGEST),
            },
            refusals=(400,),
        ),
        ("POST", "/fleet/heartbeat"): Operation(
            ReportReply, body=NodeReport, refusals=(400, 401, 403, 408, 413), needs_key=True
        ),
        ("GET", "/fleet/models"): Operation(ModelList),
        ("GET", "/fleet/nodes"): Operation(NodeList),
        ("GET", "/fleet/nodes/{node}"): Operation(NodeEntry, refusals=(404, 409)),
        ("DELETE", "/fleet/nodes/{node}"): Operation(status=204, refusals=(404, 409, 503)),
        ("POST", "/fleet/nodes/{node}/drain"): Operation(NodeEntry, refusals=(404, 409)),
        ("POST", "/fleet/nodes/{node}/undrain"): Operation(NodeEntry, refusals=(404, 409)),
        ("GET", "/fleet/joining"): Operation(Joining),
        ("POST", "/fleet/nodes/{node}/approve"): Operation(Waiting, refusals=(404,)),
        ("POST", "/fleet/nodes/{node}/ban"): Operation(NodeRule, refusals=(404, 409, 503)),
        ("POST", "/fleet/nodes/{node}/unban"): Operation(NodeRule, refusals=(404, 503)),
        ("POST", "/fleet/nodes/{node}/rename"): Operation(
            NodeRule, body=Renaming, refusals=(400, 404, 409, 503)
        ),
        ("GET", "/fleet/pins"): Operation(PinList),
        ("POST", "/fleet/pins"): Operation(PinList, body=AskedPin, refusals=(400, 404, 408, 413)),
        ("DELETE", "/fleet/pins"): Operation(
            PinList, {"model*": text(), "node": text()}, refusals=(400, 404)
        ),
        ("GET", "/dashboard/api/fleet"): Operation(FleetView),
        ("GET", "/dashboard/api/traces"): Operation(
            TracePage, {**_FILTERS, "limit": _LIMIT}, refusals=(400, 503)
        ),
        ("GET", "/dashboard/api/traces/export"): Operation(
            query={
                **_FILTERS,
                "limit": _number(LARGEST_EXPORT, 1),
                "format": {"enum": list(FORMATS)},
            },
            media=("text/csv", "application/x-ndjson"),
            refusals=(400, 503),
        ),
        ("GET", "/dashboard/api/traces/{request_id}"): Operation(TraceView, refusals=(404, 503)),
        ("GET", "/dashboard/api/trends"): Operation(
            TrendAnswer,
            {
                "from": _TIME,
                "until": _TIME,
                "step": {"enum": list(STEPS)},
                "model": text(),
                "node": text(),
            },
            refusals=(400, 503),
        ),
        ("GET", "/dashboard/api/health"): Operation(Health),
        ("GET", "/dashboard/api/health/changes"): Operation(
            ChangesAnswer, {"limit": _LIMIT}, refusals=(400, 503)
        ),
        ("GET", "/dashboard/events"): Operation(media=("text/event-stream",), refusals=(503,)),
        ("GET", "/metrics"): Operation(media=("text/plain",)),
    }
)
