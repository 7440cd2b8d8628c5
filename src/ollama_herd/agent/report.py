"""What goes into a heartbeat. Pure: the reporter sends it, the router takes it in."""

import msgspec

from ollama_herd.core.node import EngineReport, NodeReport, Platform, Vitals

LONGEST_BACKOFF_S = 15.0
"""A router that was away for long has its fleet back after this time."""

FIRST_BACKOFF_S = 0.5
"""A router that restarts is back within a second or two."""


class About(msgspec.Struct, frozen=True):
    """What stays the same in all reports of one run of the agent."""

    node_id: str
    boot: int
    name: str
    agent_version: str
    relay_port: int
    relay_key: str


class Sections(msgspec.Struct, frozen=True):
    """What there is to say now."""

    platform: Platform
    vitals: Vitals
    engines: tuple[EngineReport, ...]


def build_report(about: About, seq: int, now: Sections, accepted: Sections | None) -> NodeReport:
    """The shortest report that brings a router that holds `accepted` up to `now`.

    None means that nothing sure is known of what the router holds; then everything is said. The
    constant parts go with everything only, the relay's key above all.
    """
    platform = None if accepted and now.platform == accepted.platform else now.platform
    vitals = None if accepted and now.vitals == accepted.vitals else now.vitals
    engines = None if accepted and now.engines == accepted.engines else now.engines
    if platform is None or vitals is None or engines is None:
        return NodeReport(
            node_id=about.node_id,
            boot=about.boot,
            seq=seq,
            platform=platform,
            vitals=vitals,
            engines=engines,
        )
    # With every section a router takes it for everything, so it has to be that.
    return NodeReport(
        node_id=about.node_id,
        boot=about.boot,
        seq=seq,
        name=about.name,
        agent_version=about.agent_version,
        relay_port=about.relay_port,
        relay_key=about.relay_key,
        platform=platform,
        vitals=vitals,
        engines=engines,
    )


def build_goodbye(about: About, seq: int) -> NodeReport:
    """The last report: nothing new, and not to be sent to any more."""
    return NodeReport(node_id=about.node_id, boot=about.boot, seq=seq, leaving=True)


def backoff_s(failures: int, chance: float) -> float:
    """Seconds until the next try after so many failures in a row (at least one).

    It doubles up to a bound. `chance`, evenly in 0..1, spreads the nodes of a fleet, so that a
    router that comes back is not met by all at the same moment.
    """
    longest = min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2.0 ** min(failures - 1, 16))
    return longest * (0.5 + 0.5 * chance)
