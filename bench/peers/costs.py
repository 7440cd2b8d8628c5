"""What a request and a chunk cost in a router: CPU, rate, latency, memory; one round of one."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import wire
from peers.exchange import DIALECTS
from peers.kinds import Kind
from peers.servers import Server
from session import Session


class PeerSession(Session):
    """The bench's engines and cores, with the load that understands every router's answers."""

    generator_file = Path(__file__).parent / "load.py"


class Sizes(NamedTuple):
    """Of one round."""

    seconds: int
    streams: int
    chunks: int
    latencies: int
    trials: int


FULL = Sizes(seconds=3, streams=16, chunks=500, latencies=400, trials=4)
QUICK = Sizes(seconds=1, streams=16, chunks=100, latencies=60, trials=1)
_PERIOD_US = 5000
"""Between two chunks of a stream: 3,200 a second in all, which the slowest routers cannot keep."""

_FLOOD_MB = 200

_SLOW_PER_S = 1000.0
"""Below this rate our own load takes wrk's place: wrk stops with requests under way, whose CPU
would be counted and they would not."""


def measure(
    kind: Kind, session: PeerSession, home: Path, say: Callable[[str], None]
) -> dict[str, dict[str, Any]]:
    """Values by dialect; RuntimeError when the router does not start or a load fails."""
    values: dict[str, dict[str, Any]] = {dialect: {} for dialect in kind.dialects}
    if session.wrk:
        say("small requests")
        with Server(kind, home / "fast", session.fast_engines, core=session.proxy_core) as server:
            for dialect in kind.dialects:
                values[dialect] |= _small(session, server, dialect)
    say("streams, latency, leaving clients")
    with Server(kind, home / "checked", session.engines, core=session.proxy_core) as server:
        for dialect in kind.dialects:
            values[dialect] |= _rest(session, server, dialect, values[dialect])
    return values


def _sizes(session: Session) -> Sizes:
    return QUICK if session.quick else FULL


def _small(session: PeerSession, server: Server, dialect: str) -> dict[str, Any]:
    request = DIALECTS[dialect].request(wire.Order(0), server.port)
    session.run_wrk(server.port, server.pids, 1, request)  # connections and caches
    used = session.run_wrk(server.port, server.pids, _sizes(session).seconds, request)
    if used["requests"] < _SLOW_PER_S * used["wall_s"]:
        return {}
    problems = [f"{used['errors']} failed requests in wrk"] if used["errors"] else []
    return _per_request(used) | {"problems": problems}


def _per_request(used: Mapping[str, Any]) -> dict[str, Any]:
    if not used["requests"]:
        return {}
    return {
        "request_cpu_us": 1e6 * used["cpu_s"] / used["requests"],
        "requests_per_s": used["requests"] / used["wall_s"],
    }


def _rest(
    session: PeerSession, server: Server, dialect: str, so_far: Mapping[str, Any]
) -> dict[str, Any]:
    sizes, pids = _sizes(session), server.pids
    problems: list[str] = list(so_far.get("problems", []))

    def load(mode: str, port: int, **keys: object) -> dict[str, Any]:
        got = session.load(mode, port, pids, dialect=dialect, **keys)
        problems.extend(f"{mode}: {problem}" for problem in got.pop("problems"))
        return got

    is_known = "request_cpu_us" in so_far
    checked_s = 0.5 if is_known else sizes.seconds
    used = load("requests", server.port, connections=32, seconds=checked_s)
    values = {} if is_known else _per_request(used)
    got = load(
        "streams",
        server.port,
        connections=sizes.streams,
        chunks=sizes.chunks,
        period_us=_PERIOD_US,
    )
    if got["chunks"]:
        values["chunk_cpu_us"] = 1e6 * got["cpu_s"] / got["chunks"]
    direct = load("latency", session.engines[0], count=sizes.latencies)
    via = load("latency", server.port, count=sizes.latencies)
    left = load("disconnect", server.port, control_port=session.control_port, trials=sizes.trials)
    stuck = load(
        "backpressure",
        server.port,
        control_port=session.control_port,
        total_mb=_FLOOD_MB,
        wait_s=1.5,
    )
    return values | {
        "added_us": via["first_p50_us"] - direct["first_p50_us"],
        "stream_over_ideal": got["over_ideal"],
        "chunk_delay_p50_us": got["delay_p50_us"],
        "rss_mb": got["idle_rss_mb"],
        "growth_mb": stuck["growth_mb"],
        "left": left,
        "problems": problems,
    }
