"""Owns the fleet: the only place that applies fleet events. Readers take `registry.fleet`.

Also binds each node's identity to the key it showed first, so that no one else can speak for it.
"""

from collections.abc import Callable, Iterable

import msgspec
import structlog

from ollama_herd import __version__
from ollama_herd.clock import monotonic_s, now_s
from ollama_herd.core.fleet import (
    EngineRelisted,
    Fleet,
    FleetEvent,
    NodeDrained,
    NodeForgotten,
    NodeRenamed,
    NodeReported,
    RunnersStuck,
    TimePassed,
    apply,
    is_stale,
    needs_full_report,
    restored,
)
from ollama_herd.core.node import (
    PROTOCOL_VERSION,
    STATIC_PREFIX,
    EngineReport,
    Model,
    Node,
    NodeReport,
    NodeStatus,
    ReportReply,
    StuckRunner,
)
from ollama_herd.core.relisting import Relisting, agrees, corrected, relisted
from ollama_herd.router.admission import Admission, Claim

_log = structlog.get_logger(__name__)

MISSED_S = 0.2
"""A tick that comes later than this says that heartbeats were not heard; less is jitter."""

Listener = Callable[[Fleet], None]


class Registry:
    """`heartbeat_s` is what agents are asked to keep; `admission` says who may report."""

    def __init__(
        self, heartbeat_s: float, admission: Admission, *, cloud_models: bool = False
    ) -> None:
        self._heartbeat_s = heartbeat_s
        self.admission = admission
        self._listeners: list[Listener] = []
        self._relistings: dict[tuple[str, str], Relisting] = {}
        self._asked_anew: set[str] = set()
        self._missed_s = 0.0
        self.fleet = Fleet(cloud_models=cloud_models)

    def on_change(self, listener: Listener) -> None:
        """Call `listener` with each new fleet, in the loop, after it has been published."""
        self._listeners.append(listener)

    def restore(self, nodes: Iterable[Node]) -> None:
        """Start from the last known fleet."""
        self.fleet = restored(nodes, monotonic_s(), cloud_models=self.fleet.cloud_models)
        self._publish()

    def report(self, report: NodeReport, claim: Claim) -> ReportReply:
        """Take in a heartbeat. Raises ReportRefused."""
        turn = self.admission.turn
        if report.protocol > PROTOCOL_VERSION:
            raise turn(
                claim,
                "protocol",
                f"this router speaks report protocol {PROTOCOL_VERSION}, the agent "
                f"{report.protocol}: upgrade the router first",
            )
        if report.node_id.startswith(STATIC_PREFIX):
            raise turn(
                claim,
                "reserved",
                f"ids that begin with {STATIC_PREFIX!r} are of engines in the router's settings",
            )
        ids = [engine.engine_id for engine in report.engines or ()]
        if len(set(ids)) < len(ids):
            raise turn(claim, "same_engines", "two engines of the report have the same engine_id")
        self.admission.admit(claim, (node.address for node in self.fleet.nodes.values()))
        if name := self.admission.rule(report.node_id).name:
            report = msgspec.structs.replace(report, name=name)
        if needs_full_report(self.fleet, report):
            return self._reply(resend=True)
        if is_stale(self.fleet, report):
            turn(claim, "stale", "")
            return self._reply(accepted=False, reason="stale report")
        resend = self._let_go_of_relistings(report.node_id) or report.node_id in self._asked_anew
        self._asked_anew.discard(report.node_id)
        self._apply(NodeReported(self._corrected(report), claim.address, now_s()))
        return self._reply(resend=resend)

    def looked(self, report: NodeReport, address: str) -> None:
        """Take in what the router itself has seen of an engine of its settings: no key is asked
        for, the owner's decisions about the node count as ever.
        """
        rule = self.admission.rule(report.node_id)
        if rule.is_banned:
            return
        if rule.name:
            report = msgspec.structs.replace(report, name=rule.name)
        self._let_go_of_relistings(report.node_id)
        self._apply(NodeReported(self._corrected(report), address, now_s()))

    def relisted(self, node_id: str, engine_id: str, models: Iterable[Model]) -> None:
        """The router has read an engine's models itself; reports that lag behind change nothing."""
        node = self.fleet.nodes.get(node_id)
        engines = node.engines if node is not None else ()
        engine = next((e for e in engines if e.engine_id == engine_id), None)
        if engine is None:
            return
        key = (node_id, engine_id)
        held = relisted(engine.models, models, self._relistings.get(key), monotonic_s())
        self._relistings[key] = held
        self._apply(EngineRelisted(node_id, engine_id, held.models))

    def tick(self, late_s: float = 0.0) -> None:
        """Let time pass: silent nodes become late, then offline.

        `late_s` is how late this tick came: the loop was busy or the machine asleep, and what the
        nodes said meanwhile has not been read yet.
        """
        if late_s >= MISSED_S:
            self._missed_s += late_s
        self._apply(TimePassed(self._heartbeat_s, self._missed_s))

    def runners_stuck(self, stuck: tuple[StuckRunner, ...]) -> None:
        """Which runners hang now; said again and again, news or not."""
        self._apply(RunnersStuck(stuck))

    def ask_anew(self, node_id: str) -> None:
        """Ask for everything with the next report: what was made of the last ones has changed."""
        self._asked_anew.add(node_id)

    def drain(self, node_id: str, *, draining: bool) -> None:
        self._apply(NodeDrained(node_id, draining))

    def rename(self, node_id: str, name: str) -> None:
        """Another name at once; "" is its own again, which only its next report tells."""
        if name:
            self._apply(NodeRenamed(node_id, name))
        self.ask_anew(node_id)

    def forget(self, node_id: str) -> None:
        for key in [key for key in self._relistings if key[0] == node_id]:
            del self._relistings[key]
        self._apply(NodeForgotten(node_id))

    def _corrected(self, report: NodeReport) -> NodeReport:
        """The report without what it says of an engine's models from before our own reading."""
        if not self._relistings or report.engines is None:
            return report
        engines = tuple(self._corrected_engine(report.node_id, e) for e in report.engines)
        return msgspec.structs.replace(report, engines=engines)

    def _corrected_engine(self, node_id: str, engine: EngineReport) -> EngineReport:
        key = (node_id, engine.engine_id)
        held = self._relistings.get(key)
        if held is None:
            return engine
        held = corrected(held, engine.models)
        if agrees(held):
            del self._relistings[key]
        else:
            self._relistings[key] = held
        return msgspec.structs.replace(engine, models=held.models)

    def _let_go_of_relistings(self, node_id: str) -> bool:
        """Forget those of the node that are too old; True when there were any: its agent told
        nothing new all the time, so what it believes must be asked for.
        """
        now_s = monotonic_s()
        old = [k for k, held in self._relistings.items() if k[0] == node_id and held.is_over(now_s)]
        for key in old:
            del self._relistings[key]
        return bool(old)

    def _reply(
        self, *, accepted: bool = True, resend: bool = False, reason: str = ""
    ) -> ReportReply:
        return ReportReply(
            accepted=accepted,
            resend=resend,
            reason=reason,
            interval_s=self._heartbeat_s,
            router_version=__version__,
        )

    def _apply(self, event: FleetEvent) -> None:
        before = self.fleet
        self.fleet = apply(before, event, monotonic_s())
        if self.fleet is before:
            return
        _log_changes(before, self.fleet)
        self._publish()

    def _publish(self) -> None:
        for listener in self._listeners:
            listener(self.fleet)


def _log_changes(before: Fleet, after: Fleet) -> None:
    """One line a change that a person wants to know; nothing for a heartbeat that says the same."""
    if after.stuck != before.stuck:
        _log_stuck(before, after)
    for node_id, node in after.nodes.items():
        old = before.nodes.get(node_id)
        if old is None:
            _log.info("node joined", node=node.name, address=node.address)
        elif old.status is not node.status:
            level = _log.warning if node.status is NodeStatus.OFFLINE else _log.info
            level(f"node {node.status.value}", node=node.name)
        if old is None or old.engines is not node.engines:
            known = {e.engine_id: e.error for e in old.engines} if old else {}
            for engine in node.engines:
                if engine.error and known.get(engine.engine_id) != engine.error:
                    _log.warning(
                        "engine does not answer",
                        node=node.name,
                        engine=engine.engine_id,
                        reason=engine.error,
                    )
                elif not engine.error and known.get(engine.engine_id):
                    _log.info("engine answers again", node=node.name, engine=engine.engine_id)
    for node_id in before.nodes.keys() - after.nodes.keys():
        _log.info("node forgotten", node=before.nodes[node_id].name)


def _log_stuck(before: Fleet, after: Fleet) -> None:
    for stuck in after.stuck:
        if stuck not in before.stuck:
            _log.warning("a loaded model does not answer", **_facts(stuck, after))
    now = {(s.node_id, s.engine_id, s.runner) for s in after.stuck}
    for stuck in before.stuck:
        if (stuck.node_id, stuck.engine_id, stuck.runner) not in now:
            _log.info("no longer stuck", **_facts(stuck, after))


def _facts(stuck: StuckRunner, fleet: Fleet) -> dict[str, str]:
    node = fleet.nodes.get(stuck.node_id)
    name = node.name if node is not None else stuck.node_id
    return {"node": name, "engine": stuck.engine_id, "model": stuck.model}
