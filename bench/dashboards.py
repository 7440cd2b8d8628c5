"""What open dashboards do to small requests: p99 with none and with fifty of them, in turns.

    python bench/dashboards.py [--dashboards 50] [--rounds 7] [--requests 10000]

A real `herd` process on one core, fake engines and the load on the other. Each round times the same
number of small requests, one after the other, first without and then with that many dashboards
(every second round the other way round): they follow `/dashboard/events` and list the newest 60
requests at each change, as the page Requests does. Requests make traces, so there is news each
second. The ratio is that of the medians over all rounds.
"""

import argparse
import contextlib
import gc
import json
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import procs
from session import Proxy, Session

WARM_UP = 200
_LONGEST_WAIT_S = 20.0


def follow(port: int, count: int) -> None:
    """Followers as a process: says `following` once each has its snapshot; ends with its input."""
    selector = selectors.DefaultSelector()
    events = 0
    for _ in range(count):
        sock = socket.create_connection(("127.0.0.1", port), _LONGEST_WAIT_S)
        sock.sendall(b"GET /dashboard/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        head = sock.recv(65536)
        assert head.startswith(b"HTTP/1.1 200"), head[:200]
        events += head.count(b"event: ")  # the snapshot may come along with the head
        sock.settimeout(0.0)
        selector.register(sock, selectors.EVENT_READ)
    selector.register(sys.stdin, selectors.EVENT_READ)
    print("following", flush=True)
    while True:
        for key, _ in selector.select():
            if key.fileobj is sys.stdin:
                print(events, flush=True)
                return
            assert isinstance(key.fileobj, socket.socket)
            data = key.fileobj.recv(1 << 20)
            assert data, "the herd closed the events"
            events += data.count(b"event: ")
            if b'"traces"' in data:
                threading.Thread(target=_list_newest, args=(port,)).start()


def _list_newest(port: int) -> None:
    url = f"http://127.0.0.1:{port}/dashboard/api/traces?limit=60"
    with urllib.request.urlopen(url, timeout=_LONGEST_WAIT_S) as answer:
        answer.read()


@contextlib.contextmanager
def dashboards(session: Session, port: int, count: int) -> Iterator[list[int]]:
    """Open meanwhile; gives a list that holds the number of their events afterwards."""
    seen: list[int] = []
    if not count:
        yield seen
        return
    with procs.on_core(session.load_core):
        process = subprocess.Popen(
            [sys.executable, __file__, "--follow", str(port), str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"following\n"
        yield seen
        process.stdin.close()
        seen.append(int(process.stdout.readline() or 0))
    finally:
        procs.stop(process, 2.0)
        process.stdout.close()


def measured(session: Session, proxy: Proxy, given: argparse.Namespace) -> dict[str, object]:
    """p50 and p99 (us) by round without and with dashboards; RuntimeError for wrong answers."""
    found: dict[int, list[dict[str, float]]] = {0: [], given.dashboards: []}
    events = 0
    for number in range(given.rounds):
        for count in sorted(found, reverse=bool(number % 2)):
            with dashboards(session, proxy.port, count) as seen:
                result = session.load(
                    "latency",
                    proxy.port,
                    procs.tree(proxy.process.pid),
                    count=given.requests,
                    warm_up=WARM_UP,
                    streams=1,
                    chunks=2,
                )
            if result["problems"]:
                raise RuntimeError(f"wrong answers: {result['problems'][:3]}")
            events += sum(seen)
            found[count].append({p: result[f"first_{p}_us"] for p in ("p50", "p99")})
        print(f"round {number + 1} of {given.rounds}", file=sys.stderr)
    medians = {
        count: {p: statistics.median(one[p] for one in rounds) for p in ("p50", "p99")}
        for count, rounds in found.items()
    }
    without, with_all = medians[0], medians[given.dashboards]
    return {
        "dashboards": given.dashboards,
        "events": events,
        "without_us": without,
        "with_us": with_all,
        "ratio_p50": with_all["p50"] / without["p50"],
        "ratio_p99": with_all["p99"] / without["p99"],
        "rounds_us": {str(count): rounds for count, rounds in found.items()},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dashboards", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--requests", type=int, default=10_000, help="of each measurement")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--follow", type=int, nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.follow:
        follow(*given.follow)
        return 0
    procs.raise_file_limit()
    gc.freeze()
    with tempfile.TemporaryDirectory() as scratch:
        session = Session(Path(scratch), quick=False, use_wrk=False, tick=lambda: None)
        try:
            proxy = session.start("herd")
            try:
                result = measured(session, proxy, given)
            finally:
                proxy.stop()
        finally:
            session.close()
    for name in ("without_us", "with_us"):
        values = result[name]
        assert isinstance(values, dict)
        who = "no dashboard" if name == "without_us" else f"{given.dashboards} dashboards"
        print(f"{who:14} p50 {values['p50']:7.0f} us, p99 {values['p99']:7.0f} us")
    print(f"ratio          p50 {result['ratio_p50']:7.3f},    p99 {result['ratio_p99']:7.3f}")
    print(f"events that the dashboards were told: {result['events']}")
    if given.json:
        given.json.write_text(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
