"""Checks of the machines: are they there, have they memory and disk left, do their clocks agree."""

from collections.abc import Iterator

from ollama_herd.core.abilities import IMAGE_SERVICE, SPEECH_SERVICE, purpose
from ollama_herd.core.health.values import Seen, Severity, Snapshot
from ollama_herd.core.health.words import counted, gb, listed, percent, plain, ram, seconds
from ollama_herd.core.node import Node, NodeStatus, Pressure, Reach

MEMORY_LEFT_SHARE = 0.05
"""Below this share of its memory a machine begins to swap."""

UNUSED_SHARE = 0.6
UNUSED_BYTES = 8e9
"""A machine with so much memory free could hold another model of common size."""

DISK_LEFT_BYTES = 10e9
DISK_LEFT_SHARE = 0.05
DISK_OUT_BYTES = 1e9
"""Models have some 2 to 50 GB; with less than 1 GB even logs and databases fail."""

SKEW_S = 5.0
BAD_SKEW_S = 60.0
"""Times of logs and of models in memory (`expires_at`) are compared between machines."""

SWAP_BYTES = 2e9
SWAP_SHARE = 0.1
"""Every system swaps out a little that is never used; a model's weights are more than this."""


_START_ENGINE = (
    "See whether the machine is on and its engine listens on the network; it comes back by itself. "
    "One that is gone for good is taken out of `engine` in the router's settings."
)


def node_state(snapshot: Snapshot) -> Iterator[Seen]:
    """Offline, late, hot, draining, quiet."""
    fleet = snapshot.fleet
    for node in fleet.nodes.values():
        silent_s = snapshot.now_s - node.last_report_s
        name, key = plain(node.name), node.node_id
        if node.status is NodeStatus.OFFLINE:
            gone = _only_there(snapshot, node)
            lost = f"; nobody else has {listed(gone)}" if gone else ""
            severity = Severity.CRITICAL if gone else Severity.WARNING
            silence = f"no report for {seconds(silent_s)}"
            if node.has_left:
                silence = f"left {seconds(silent_s)} ago: its agent was stopped"
            text = f"{silence}{lost}"
            advice = "" if node.has_agent else _START_ENGINE
            yield Seen(severity, key, name, text, advice, node_id=key)
        elif node.status is NodeStatus.LATE:
            text = f"no report for {seconds(silent_s)}; still used"
            yield Seen(Severity.WARNING, key, name, text, node_id=key)
        elif node.vitals.throttled:
            degrees = node.vitals.temperature_c
            at = f" at {degrees:.0f} °C" if degrees is not None else ""
            yield Seen(
                Severity.WARNING,
                key,
                name,
                f"slowed down by its own heat{at}",
                "Give it air, or fewer slots; it is slower until it has cooled down.",
                node_id=key,
            )
        elif node.draining:
            text = f"draining: takes no new requests; {_running(snapshot, key)} still run"
            advice = "Nothing, if you asked for it; `herd nodes undrain` takes it back into use."
            yield Seen(Severity.INFO, key, name, text, advice, node_id=key)
        elif node.vitals.quiet_until:
            running = _running(snapshot, key)
            until = plain(node.vitals.quiet_until)
            text = f"quiet hours until {until}: takes no new requests; {running} still run"
            advice = "Nothing, if that is wanted; `quiet_hours` of its herd-node says when."
            yield Seen(Severity.INFO, key, name, text, advice, node_id=key)


def engine_unreachable(snapshot: Snapshot) -> Iterator[Seen]:
    """The agent reports, its engine does not answer."""
    for node in _present(snapshot):
        name, works = plain(node.name), any(not engine.error for engine in node.engines)
        if not node.engines:
            text = "the agent runs, but has found no engine"
            advice = "Start Ollama there, or name the engine: herd-node --engine http://HOST:PORT."
            yield Seen(Severity.WARNING, node.node_id, name, text, advice, node_id=node.node_id)
        for engine in node.engines:
            if engine.error and engine.engine_id not in _LOCAL_SERVICES:
                yield Seen(
                    Severity.WARNING
                    if works or _others_work(snapshot, node)
                    else Severity.CRITICAL,
                    f"{node.node_id}/{engine.engine_id}",
                    name,
                    f"{engine.engine_id} does not answer: {plain(engine.error)}",
                    node_id=node.node_id,
                )


def memory_pressure(snapshot: Snapshot) -> Iterator[Seen]:
    """The operating system is short of memory."""
    for node in _present(snapshot):
        vitals = node.vitals
        free, total = vitals.memory_available_bytes, vitals.memory_total_bytes
        if not total:
            continue
        text = f"{ram(free)} of {ram(total)} free, pressure {vitals.pressure.value}"
        if vitals.pressure is Pressure.CRITICAL:
            yield _of(Severity.CRITICAL, node, text)
        elif vitals.pressure is Pressure.WARN or free < MEMORY_LEFT_SHARE * total:
            yield _of(Severity.WARNING, node, text)


def unused_memory(snapshot: Snapshot) -> Iterator[Seen]:
    """Memory lies idle on one machine while another one is short of it, or requests wait."""
    short = [seen.name for seen in memory_pressure(snapshot)]
    waiting = snapshot.queue.waiting
    if not short and not waiting:
        return
    why = f"{listed(short)} is short of memory" if short else f"{waiting} requests wait"
    for node in _present(snapshot):
        vitals = node.vitals
        free, total = vitals.memory_available_bytes, vitals.memory_total_bytes
        is_out = node.draining or node.vitals.quiet_until
        if is_out or not node.engines or plain(node.name) in short:
            continue
        is_idle = not any(engine.loaded for engine in node.engines)
        if free >= UNUSED_BYTES and (is_idle or free >= UNUSED_SHARE * total):
            yield _of(Severity.INFO, node, f"{ram(free)} of {ram(total)} free, while {why}")


def disk(snapshot: Snapshot) -> Iterator[Seen]:
    """The disk with the models is nearly full."""
    for node in _present(snapshot):
        free, total = node.vitals.disk_free_bytes, node.vitals.disk_total_bytes
        if not total:
            continue
        text = f"{gb(free)} of {gb(total)} free ({percent(free, total)})"
        if free < DISK_OUT_BYTES:
            yield _of(Severity.CRITICAL, node, text)
        elif free < min(DISK_LEFT_BYTES, DISK_LEFT_SHARE * total):
            yield _of(Severity.WARNING, node, text)


def clock_skew(snapshot: Snapshot) -> Iterator[Seen]:
    """A machine's clock says something else than the router's."""
    for node in _present(snapshot):
        skew_s = node.clock_skew_s
        if abs(skew_s) >= SKEW_S:
            which = "ahead of" if skew_s > 0 else "behind"
            severity = Severity.WARNING if abs(skew_s) >= BAD_SKEW_S else Severity.INFO
            yield _of(severity, node, f"its clock is {seconds(abs(skew_s))} {which} the router's")


def swap(snapshot: Snapshot) -> Iterator[Seen]:
    """Models in memory, and a good part of the memory on disk."""
    for node in _present(snapshot):
        vitals = node.vitals
        used, total = vitals.swap_used_bytes, vitals.memory_total_bytes
        if not any(engine.loaded for engine in node.engines):
            continue
        if used >= SWAP_BYTES and used >= SWAP_SHARE * total:
            yield _of(Severity.WARNING, node, f"{ram(used)} swapped out of {ram(total)} memory")


_WITH_AGENT = (
    "Let it listen on loopback (unset OLLAMA_HOST there): the agent's relay brings the router to "
    "it."
)
_WITHOUT_AGENT = (
    "Let a firewall there admit the router's machine only; or run herd-node there, whose relay "
    "brings the router to an engine on loopback."
)


def exposure(snapshot: Snapshot) -> Iterator[Seen]:
    """Ports that anybody on the network can use."""
    router = snapshot.router
    if not router.asks_for_keys and not _is_loopback(router.host):
        yield Seen(
            Severity.INFO,
            "router",
            "router",
            f"listens on {router.host} port {router.port} and asks for no key",
            "Fine on a network you trust. Else listen on one address (herd --host 127.0.0.1) "
            "behind a proxy that asks for a key.",
        )
    for node in _present(snapshot):
        for engine in node.engines:
            if engine.reach is Reach.LAN and not _is_loopback(node.address):
                yield Seen(
                    Severity.INFO,
                    f"{node.node_id}/{engine.engine_id}",
                    plain(node.name),
                    f"{engine.engine_id} answers anyone on the network at port {engine.port}",
                    _WITH_AGENT if node.has_agent else _WITHOUT_AGENT,
                    node_id=node.node_id,
                )


def versions(snapshot: Snapshot) -> Iterator[Seen]:
    """Engines or agents of different versions."""
    by_version: dict[str, list[str]] = {}
    for node in _present(snapshot):
        for engine in node.engines:
            if engine.kind == "ollama" and engine.version and not engine.error:
                by_version.setdefault(engine.version, []).append(plain(node.name))
        ours, theirs = snapshot.router.version, node.agent_version
        if ours and theirs and ours != theirs:
            text = f"herd-node {plain(theirs)}, the router is {ours}"
            advice = "Upgrade ollama-herd on both; the router first."
            key = f"{node.node_id}/agent"
            yield Seen(Severity.INFO, key, plain(node.name), text, advice, node_id=node.node_id)
    if len(by_version) > 1:
        minors = {version.rpartition(".")[0] for version in by_version}
        parts = (f"{plain(v)} on {listed(sorted(n))}" for v, n in sorted(by_version.items())[:4])
        severity = Severity.WARNING if len(minors) > 1 else Severity.INFO
        yield Seen(severity, "ollama", "Ollama", f"{len(by_version)} versions: {'; '.join(parts)}")


def services(snapshot: Snapshot) -> Iterator[Seen]:
    """Engines that make pictures or take dictation, and do not answer."""
    for node in _present(snapshot):
        for engine in node.engines:
            can = {word for model in engine.models for word in model.capabilities}
            kinds = sorted(can & _SERVICES.keys())
            if engine.error and not kinds and engine.engine_id in _LOCAL_SERVICES:
                yield Seen(  # installed, and not complete
                    Severity.INFO,
                    f"{node.node_id}/{engine.engine_id}",
                    plain(node.name),
                    plain(engine.error),
                    "Fetch the weights, or set services = false for that node.",
                    node_id=node.node_id,
                )
            elif kinds and engine.error:
                what = " and ".join(dict.fromkeys(_SERVICES[kind] for kind in kinds))
                yield Seen(
                    Severity.WARNING,
                    f"{node.node_id}/{engine.engine_id}",
                    plain(node.name),
                    f"{what} do not work: {plain(engine.error)}",
                    node_id=node.node_id,
                )

    yield from _failing_services(snapshot)


def _failing_services(snapshot: Snapshot) -> Iterator[Seen]:
    """They answer for themselves, and fail what is asked of them."""
    for model, counts in snapshot.recent.by_model.items():
        kinds = {purpose(one.model) for one in snapshot.fleet.replicas.get(model, ())}
        fewest = max(FEWEST_FAILURES, FAILED_SHARE * counts.requests)
        if kinds & {"image", "speech"} and counts.failed >= fewest:
            text = f"{counts.failed:,} of {counts.requests:,} requests failed"
            advice = "The log of that service says why; the requests' traces name the node."
            key = f"model:{model}"
            yield Seen(Severity.WARNING, key, plain(model), text, advice, model=model)


FEWEST_FAILURES = 3
FAILED_SHARE = 0.5
"""Pictures and transcriptions are asked for seldom: a few failures in a row are all there is."""

_LOCAL_SERVICES = frozenset({IMAGE_SERVICE, SPEECH_SERVICE})
_SERVICES = {
    "image": "images",
    "image_generation": "images",
    "transcription": "speech",
    "speech": "speech",
}


def _of(severity: Severity, node: Node, text: str) -> Seen:
    return Seen(severity, node.node_id, plain(node.name), text, node_id=node.node_id)


def _present(snapshot: Snapshot) -> Iterator[Node]:
    """Nodes whose last report is about now."""
    for node in snapshot.fleet.nodes.values():
        if node.status in (NodeStatus.ONLINE, NodeStatus.LATE):
            yield node


def _only_there(snapshot: Snapshot, gone: Node) -> list[str]:
    """Models that no usable node has."""
    fleet = snapshot.fleet
    keys = (listed_there.model_key for listed_there in fleet.listed.get(gone.node_id, ()))
    return sorted({plain(key) for key in keys if key not in fleet.replicas})


def _others_work(snapshot: Snapshot, node: Node) -> bool:
    return any(
        not engine.error
        for other in _present(snapshot)
        if other.node_id != node.node_id
        for engine in other.engines
    )


def _running(snapshot: Snapshot, node_id: str) -> str:
    replicas = snapshot.queue.replicas
    return counted(sum(r.in_flight for r in replicas if r.node_id == node_id), "request")


def _is_loopback(host: str) -> bool:
    return host in {"localhost", "::1"} or host.startswith("127.")
