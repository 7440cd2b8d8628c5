"""A fleet of simulated machines behind the real router, under several routing policies.

Run: `.venv/bin/python bench/scenario/run.py`, or with `--trace FILE` for a public trace in one of
the formats that `herd simulate` reads. Every policy gets the same requests at the same times;
`herd` is started anew for each. All times in the table are those of the simulated machines.
"""

import argparse
import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import msgspec

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

from clients import Clients, Measured  # noqa: E402
from machines import HEARTBEAT_S, Clock, Host  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

import procs  # noqa: E402
from ollama_herd.core.node import NodeReport, ReportReply  # noqa: E402
from ollama_herd.simulate import comparison, machines, traces, workloads  # noqa: E402
from ollama_herd.simulate.results import quantile  # noqa: E402
from ollama_herd.simulate.world import Conditions, Scenario  # noqa: E402

POLICIES = ("expected-completion", "least-requests", "round-robin")
WARM_UP_SHARE = 0.1
"""Requests of the first tenth of the time are answered, but not measured."""

LIMIT = 6.0
"""Requests without an answer after so many horizons count as starved."""


def main() -> None:
    options = _options()
    source = traces.source(options.trace) if options.trace else workloads.BUILT_IN[options.workload]
    case = comparison.Case(
        name="scenario",
        fleet=machines.fleet(options.fleet),
        source=source,
        mix=workloads.MIXES[options.mix],
        load=options.load,
        conditions=Conditions(horizon_s=options.horizon),
        most=options.requests,
    )
    scenario = comparison.scenario(case, options.seed)
    table = Table(title=_title(options), caption="simulated s; ratio: to the first policy")
    for heading in ("policy", "requests", "failed", "starved", "loads"):
        table.add_column(heading)
    for heading in ("TTFT mean", "p50", "p95", "p99", "whole mean", "p95", "TTFT ratio"):
        table.add_column(heading, justify="right")
    console = Console(width=150)
    base_s = 0.0
    for policy in options.policies.split(","):
        console.print(f"{policy}: {scenario.conditions.horizon_s / options.speed:.0f} s or more")
        row, mean_s = _row(asyncio.run(_run(scenario, policy, options.speed)), scenario)
        base_s = base_s or mean_s
        table.add_row(policy, *row, f"{mean_s / max(base_s, 1e-9):.2f}")
    console.print(table)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fleet", default="f8", choices=sorted(machines.FLEETS))
    parser.add_argument("--workload", default="chat", choices=sorted(workloads.BUILT_IN))
    parser.add_argument("--trace", type=Path, help="replay this file instead of a workload")
    parser.add_argument("--mix", default="few", choices=sorted(workloads.MIXES))
    parser.add_argument("--load", type=float, default=0.6)
    parser.add_argument("--horizon", type=float, default=600.0, help="simulated seconds")
    parser.add_argument("--requests", type=int, default=600, help="at most")
    parser.add_argument("--speed", type=float, default=5.0, help="simulated seconds a second")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--policies", default=",".join(POLICIES))
    return parser.parse_args()


def _title(options: argparse.Namespace) -> str:
    what = options.trace.name if options.trace else options.workload
    return f"{options.fleet}, {what}, {options.mix}, load {options.load:g}, seed {options.seed}"


async def _run(scenario: Scenario, policy: str, speed: float) -> tuple[list[Measured], int]:
    """Every request's times, and how many loads there were."""
    clock, turns = Clock(speed), {}
    truth = machines.Truth(scenario.machines, scenario.seed, scenario.conditions.wrong_ln)
    models = sorted({c.model for c in scenario.conversations})
    hosts = [Host(m, models, truth, clock, turns) for m in scenario.machines]
    for host in hosts:
        await host.open()
    with tempfile.TemporaryDirectory() as folder, _router(Path(folder), policy) as port:
        for host in hosts:
            await _beat(port, host)
        beating = asyncio.create_task(_keep_beating(port, hosts))  # noqa: TID251
        clients = Clients(port, clock, turns)
        begun_s = clock.now_s()
        shifted = [
            msgspec.structs.replace(c, at_s=c.at_s + begun_s) for c in scenario.conversations
        ]
        await clients.run(shifted, LIMIT * scenario.conditions.horizon_s)
        beating.cancel()
        for measured in clients.measured:
            measured.arrived_s -= begun_s
            measured.first_s -= begun_s if measured.first_s >= 0 else 0.0
            measured.done_s -= begun_s if measured.done_s >= 0 else 0.0
    for host in hosts:
        host.close()
    return clients.measured, sum(host.engine.loads for host in hosts)


@contextlib.contextmanager
def _router(home: Path, policy: str):
    """The real router as a process of its own; its port."""
    port = procs.free_port()
    command = [str(Path(sys.executable).parent / "herd"), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--home", str(home), "--no-mdns", "--log-level", "warning"]
    # No second tries: the policies are compared, not what saves a request from them.
    own = {
        "HERD_POLICY": policy,
        "HERD_HEDGE": "false",
        "HERD_QUEUE_TIMEOUT_S": "86400",
        "HERD_QUEUE_LIMIT": "100000",
        "HERD_CANARY_S": "0",
    }
    process = subprocess.Popen(command, env={**os.environ, **own}, stdin=subprocess.DEVNULL)
    try:
        procs.wait_for_port(port, process)
        yield port
    finally:
        procs.stop(process)


async def _keep_beating(port: int, hosts: Sequence[Host]) -> None:
    while True:
        await asyncio.sleep(HEARTBEAT_S)
        for host in hosts:
            await _beat(port, host)


async def _beat(port: int, host: Host) -> None:
    report = host.report()
    reply = await asyncio.to_thread(_post, port, report)
    if reply.resend:
        host.tell_all()


def _post(port: int, report: NodeReport) -> ReportReply:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/fleet/heartbeat", data=msgspec.json.encode(report)
    )
    request.add_header("Authorization", f"Bearer bench-key-of-{report.node_id}")
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
        return msgspec.json.decode(answer.read(), type=ReportReply)


def _row(found: tuple[list[Measured], int], scenario: Scenario) -> tuple[tuple[str, ...], float]:
    measured, loads = found
    failed = [m for m in measured if m.status not in (0, 200)]
    starved = [m for m in measured if m.done_s < 0 and m.status in (0, 200)]
    horizon_s = scenario.conditions.horizon_s
    counted = [m for m in measured if m.done_s >= 0 and m.arrived_s >= WARM_UP_SHARE * horizon_s]
    first = [m.first_s - m.arrived_s for m in counted] or [0.0]
    whole = [m.done_s - m.arrived_s for m in counted] or [0.0]
    mean_s = sum(first) / len(first)
    figures = (
        mean_s,
        *(quantile(first, share) for share in (0.5, 0.95, 0.99)),
        sum(whole) / len(whole),
        quantile(whole, 0.95),
    )
    row = (str(len(measured)), str(len(failed)), str(len(starved)), str(loads))
    return (*row, *(f"{value:.2f}" for value in figures)), mean_s


if __name__ == "__main__":
    main()
