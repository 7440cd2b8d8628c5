"""The measurements: each takes a running proxy and gives the values of its figures.

A value called `problems` lists answers that were wrong or lost.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import procs
from session import Proxy, Session

Values = dict[str, Any]


class Scenario(NamedTuple):
    """`rounds` and `seconds` of one measurement in a full and in a quick run. `plain`: also of the
    herd in plain Python.
    """

    measure: Callable[[Session, Proxy, Sequence[int]], Values]
    rounds: tuple[int, int]
    seconds: tuple[float, float]
    plain: bool = False


def small(session: Session, proxy: Proxy, pids: Sequence[int]) -> Values:
    """With wrk the rate and CPU come from it, and our own load checks bodies before."""
    idle_mb = procs.rss_mb(pids)
    seconds = 1 if session.quick else 3
    own_s = 0.5 if session.wrk else seconds
    used = session.load("requests", proxy.port, pids, connections=32, seconds=own_s)
    problems = used["problems"]
    if session.wrk and not problems:
        session.run_wrk(proxy.fast_port, pids, 1)  # both sides' connections and caches
        used = session.run_wrk(proxy.fast_port, pids, seconds)
        if used["errors"]:
            problems = [f"{used['errors']} failed requests in wrk"]
    return {
        "cpu_us": _per(used["cpu_s"], used["requests"]),
        "per_s": used["requests"] / used["wall_s"],
        "idle_rss_mb": idle_mb,
        "problems": problems,
    }


def stream(session: Session, proxy: Proxy, pids: Sequence[int]) -> Values:
    chunks = 250 if session.quick else 750
    got = session.load(
        "streams", proxy.port, pids, connections=64, chunks=chunks, period_us=4000
    )  # fmt: skip
    return got | {
        "cpu_us": _per(got["cpu_s"], got["chunks"]),
        "per_s": got["chunks"] / got["wall_s"],
    }


def flood(session: Session, proxy: Proxy, pids: Sequence[int]) -> Values:
    repeat_s = 0.5 if session.quick else 1.5
    got = session.load(
        "streams", proxy.port, pids, connections=64, chunks=200, period_us=0, repeat_s=repeat_s
    )
    return got | {
        "cpu_us": _per(got["cpu_s"], got["chunks"]),
        "per_s": got["chunks"] / got["wall_s"],
    }


def latency(session: Session, proxy: Proxy, pids: Sequence[int]) -> Values:
    """Against the same load straight to an engine, taken right before."""
    count = 300 if session.quick else 2000
    keys = {"count": count, "warm_up": 100, "streams": 5 if session.quick else 20, "chunks": 20}
    direct = session.load("latency", session.engines[0], [], **keys)
    via = session.load("latency", proxy.port, pids, **keys)
    return {
        "added_p50_us": via["first_p50_us"] - direct["first_p50_us"],
        "added_p99_us": via["first_p99_us"] - direct["first_p99_us"],
        "stream_added_p50_us": via["stream_first_p50_us"] - direct["stream_first_p50_us"],
        "chunk_delay_p50_us": via["chunk_delay_p50_us"],
        "chunk_delay_p99_us": via["chunk_delay_p99_us"],
        "direct": direct,
        "problems": direct["problems"] + via["problems"],
    }


def _slow(connections: int) -> Callable[[Session, Proxy, Sequence[int]], Values]:
    def measure(session: Session, proxy: Proxy, pids: Sequence[int]) -> Values:
        chunks = 15 if session.quick else 80
        got = session.load(
            "streams", proxy.port, pids, connections=connections, chunks=chunks, period_us=100_000
        )
        return got | {
            "core_percent": 100 * got["cpu_s"] / got["wall_s"],
            "cpu_us": _per(got["cpu_s"], got["chunks"]),
            "over_ideal": got["wall_s"] / got["ideal_s"],
        }

    return measure


def disconnect(session: Session, proxy: Proxy, pids: Sequence[int]) -> Values:
    trials = 4 if session.quick else 16
    return session.load(
        "disconnect", proxy.port, pids, control_port=session.control_port, trials=trials
    )


def body20mb(session: Session, proxy: Proxy, pids: Sequence[int]) -> Values:
    return session.load(
        "big_bodies",
        proxy.port,
        pids,
        size_bytes=20_000_000,
        at_once=2 if session.quick else 8,
        sequential=2 if session.quick else 8,
    )


def backpressure(session: Session, proxy: Proxy, pids: Sequence[int]) -> Values:
    return session.load(
        "backpressure",
        proxy.port,
        pids,
        control_port=session.control_port,
        total_mb=320,
        wait_s=1.0 if session.quick else 3.0,
    )


def _per(cpu_s: float, count: int) -> float:
    """Microseconds each; nothing done costs 0 and is a problem told elsewhere."""
    return cpu_s * 1e6 / count if count else 0.0


SCENARIOS: Mapping[str, Scenario] = {
    "small": Scenario(small, rounds=(4, 2), seconds=(4.9, 2.8), plain=True),
    "stream": Scenario(stream, rounds=(4, 1), seconds=(3.4, 1.4), plain=True),
    "flood": Scenario(flood, rounds=(3, 1), seconds=(3.0, 1.5)),
    "latency": Scenario(latency, rounds=(4, 1), seconds=(6.0, 2.2)),
    "slow1000": Scenario(_slow(1000), rounds=(2, 1), seconds=(9.0, 2.5)),
    "slow5000": Scenario(_slow(5000), rounds=(3, 1), seconds=(12.0, 4.8)),
    "disconnect": Scenario(disconnect, rounds=(2, 1), seconds=(5.5, 1.5)),
    "body20mb": Scenario(body20mb, rounds=(2, 1), seconds=(2.5, 1.0)),
    "backpressure": Scenario(backpressure, rounds=(1, 1), seconds=(3.5, 1.5)),
}
