"""The queue as people see it: bounds, refusals, and who waits for what."""

import math
from collections.abc import Sequence

import msgspec

from ollama_herd.core.decision import Eliminated, Rejected
from ollama_herd.core.fleet import Fleet
from ollama_herd.core.load import Load
from ollama_herd.core.request import InferenceRequest, Kind, Priority, Refusal, RefusalKind
from ollama_herd.core.routing import is_waiting_for_report
from ollama_herd.core.shares import Shares
from ollama_herd.core.waiting import WaitingRoom
from ollama_herd.core.waits import expected_starts

RETRY_AFTER_MAX_S = 60


class QueueSettings(msgspec.Struct, frozen=True):
    """Bounds of the router's queue. Only requests that really wait are counted."""

    limit: int = 1000
    timeout_s: float = 600.0
    no_node_grace_s: float = 10.0  # how long a waiting request outlives its last usable node
    # Where nothing tells an engine's slots: send one request more now and then to find out.
    probe_slots: bool = False
    # Load busy models on further nodes ahead of requests.
    placement: bool = True


class ReplicaQueue(msgspec.Struct, frozen=True):
    """One replica's load. `waiting` counts requests for which this is the likeliest place."""

    node_id: str
    engine_id: str
    model: str
    runner: str
    in_flight: int
    waiting: int
    slots: int
    is_loaded: bool


class WaitingRequest(msgspec.Struct, frozen=True):
    """One waiting request. `position` counts from 1 among the requests of its model."""

    request_id: str
    model_key: str
    client: str
    priority: Priority
    position: int
    waited_s: float
    expected_wait_s: float
    node_id: str = ""  # where it would go as things stand


class QueueView(msgspec.Struct, frozen=True):
    """All in flight and waiting. `replicas` lists those with any load."""

    in_flight: int
    waiting: int
    replicas: tuple[ReplicaQueue, ...]
    requests: tuple[WaitingRequest, ...]


def view(load: Load, room: WaitingRoom, fleet: Fleet, shares: Shares, now_s: float) -> QueueView:
    """The queue at `now_s`; requests by model, in the order they would be looked at."""
    requests: list[WaitingRequest] = []
    waiting: dict[tuple[str, str, str], int] = {}
    for model_key in room.models:
        board = load.board(model_key, fleet)
        places = board.places if board is not None else []
        listed = room.listed(model_key, shares, now_s)
        starts = expected_starts(places, listed, now_s)
        for position, pending in enumerate(listed, 1):
            key = pending.likely or (places[0].load.key if places else None)
            if key is not None:
                waiting[key] = waiting.get(key, 0) + 1
            request = pending.request
            requests.append(
                WaitingRequest(
                    request_id=request.request_id,
                    model_key=model_key,
                    client=request.client,
                    priority=request.priority,
                    position=position,
                    waited_s=max(0.0, now_s - request.arrived_s),
                    expected_wait_s=starts[position - 1],
                    node_id=key[0] if key is not None else "",
                )
            )
    replicas = tuple(
        ReplicaQueue(
            node_id=key[0],
            engine_id=key[1],
            model=replica.replica.model.name,
            runner=key[2],
            in_flight=len(replica.running),
            waiting=waiting.get(key, 0),
            slots=replica.slots,
            is_loaded=replica.is_hot,
        )
        for key, replica in sorted(load.replicas.items())
        if replica.running or key in waiting
    )
    return QueueView(
        in_flight=len(load.running),
        waiting=len(room),
        replicas=replicas,
        requests=tuple(requests),
    )


def no_place(
    request: InferenceRequest, fleet: Fleet, rejected: tuple[Rejected, ...]
) -> Refusal | None:
    """The refusal of a request nobody can take, None when it is worth waiting."""
    if not rejected:
        return refusal(RefusalKind.UNKNOWN_MODEL, request, fleet)
    if is_waiting_for_report(rejected):
        return None
    if all(r.reason is Eliminated.MISSING_CAPABILITY for r in rejected):
        return refusal(RefusalKind.WRONG_KIND, request, fleet)
    if all(r.reason is Eliminated.CLOUD_MODEL for r in rejected):
        return cloud_refusal(request.model)
    return refusal(RefusalKind.NO_NODE, request, fleet, rejected)


def refusal(
    kind: RefusalKind,
    request: InferenceRequest,
    fleet: Fleet,
    rejected: Sequence[Rejected] = (),
    *,
    waiting: int = 0,
    waited_s: float = 0.0,
    expected_s: float = 0.0,
) -> Refusal:
    """Why the request is not served, what to do, and when to come back.

    `waiting` requests are before it, and it would start in `expected_s`.
    The message of UNKNOWN_MODEL is the model's name alone: each dialect words it as its own
    server would.
    """
    retry_s = min(max(math.ceil(expected_s), 1), RETRY_AFTER_MAX_S)
    if kind is RefusalKind.UNKNOWN_MODEL:
        return Refusal(kind, request.model)
    if kind is RefusalKind.WRONG_KIND:
        does = {Kind.IMAGE: "makes no pictures", Kind.SPEECH: "does not write down speech"}
        what = does.get(request.kind, "cannot do that")
        return Refusal(kind, f"model '{request.model}' {what}; GET /v1/models tells who does")
    if kind is RefusalKind.QUEUE_FULL:
        text = (
            f"the queue is full: {waiting} requests are waiting, and '{request.model}' would "
            f"have a slot in about {expected_s:.0f} s; "
            f"try again in {retry_s} s, or add a node that has '{request.model}'"
        )
        return Refusal(kind, text, retry_s)
    if kind is RefusalKind.QUEUE_TIMEOUT:
        text = (
            f"no slot for '{request.model}' became free in {waited_s:.0f} s: it is number "
            f"{waiting + 1} of those that wait, for about {expected_s:.0f} s more; "
            f"try again in {retry_s} s, or add a node that has it"
        )
        return Refusal(kind, text, retry_s)
    if kind is RefusalKind.DRAINING:
        text = (
            f"the herd is shutting down and '{request.model}' had no slot free; "
            "send the request again when it is back"
        )
        return Refusal(kind, text, retry_s)
    text = f"no node can run '{request.model}' now"
    what = "start one of them"
    if rejected:
        text += ": " + ", ".join(_because(r, fleet) for r in rejected)
        if all(r.reason is Eliminated.QUIET_HOURS for r in rejected):
            what, retry_s = "ask again when they are over", RETRY_AFTER_MAX_S
    return Refusal(kind, f"{text}; {what}, or pull the model on another node", retry_s)


def cloud_refusal(model: str) -> Refusal:
    """A model that the owner does not want to be asked."""
    text = (
        f"model '{model}' runs in Ollama's cloud, so prompts would leave this network; "
        "take another model, or ask the owner of this herd for cloud_models = true"
    )
    return Refusal(RefusalKind.CLOUD_MODEL, text)


def _because(rejected: Rejected, fleet: Fleet) -> str:
    node = fleet.nodes.get(rejected.node_id)
    name = node.name if node is not None else rejected.node_id
    reason = rejected.reason.value.replace("_", " ")
    joint = " " if rejected.reason is Eliminated.QUIET_HOURS else ": "
    return f"{name} ({reason}{joint + rejected.detail if rejected.detail else ''})"
