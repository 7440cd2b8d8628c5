"""Single probes: clients that leave, bodies of 20 MB, a client that stops reading."""

import base64
import http.client
import json
import os
import socket
import statistics
import threading
import time
import zlib
from collections.abc import Sequence
from typing import Any

import procs
import wire
import wire_openai
from checks import percentile
from wheel import now_us

_GONE_WITHIN_S = 3.0
"""After so long an engine that still works for nobody counts as never told."""

_LONG_US = 30_000_000
_REQUEST = {"ollama": wire.request, "openai": wire_openai.request}


def _control(control_port: int, path: str) -> dict[str, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", control_port, timeout=10)
    connection.request("GET", path)
    answer: dict[str, Any] = json.loads(connection.getresponse().read())
    connection.close()
    return answer


def disconnects(
    port: int, pids: Sequence[int], control_port: int, trials: int, dialect: str = "ollama"
) -> dict[str, Any]:
    """Milliseconds from the client's close until the engine sees its connection closed.

    Mid-stream (a chunk each 50 ms), in a gap of 30 s between two chunks, before the first byte
    of a stream, and of a plain answer.
    """
    _ = pids
    cases = {
        "mid": (wire.Order(0, 1000, 50_000), 0.12),
        "gap": (wire.Order(0, 10, _LONG_US), 0.05),
        "before": (wire.Order(0, 10, 1000, _LONG_US), 0.05),
        "plain": (wire.Order(0, 0, 0, _LONG_US), 0.05),
    }
    result: dict[str, Any] = {"problems": []}
    all_ms = []
    for number, (case, (template, after_s)) in enumerate(cases.items()):
        _control(control_port, "/bench/reset")
        closed_us = {}
        for trial in range(trials):
            order = template._replace(id=number * 1000 + trial + 1)
            closed_us[order.id] = _leave(port, order, after_s, dialect)
        seen_us = _wait_closed(control_port, closed_us)
        lost = [order_id for order_id in closed_us if order_id not in seen_us]
        if lost:
            result["problems"].append(
                f"{case}: {len(lost)} of {trials} not closed within {_GONE_WITHIN_S} s"
            )
        took_ms = [(seen_us[one] - closed_us[one]) / 1000 for one in closed_us if one in seen_us]
        result[f"{case}_p50_ms"] = percentile(took_ms, 50)
        all_ms += took_ms or [_GONE_WITHIN_S * 1000]
    result["max_ms"] = max(all_ms)
    return result


def _leave(port: int, order: wire.Order, after_s: float, dialect: str) -> int:
    """Ask, wait (for the first byte where one comes), close; the moment of closing."""
    with socket.create_connection(("127.0.0.1", port), 5) as sock:
        sock.sendall(_REQUEST[dialect](order, port))
        if not order.first_us:
            sock.recv(65536)
        time.sleep(after_s)
        return now_us()


def _wait_closed(control_port: int, closed_us: dict[int, int]) -> dict[int, int]:
    end_us = now_us() + int(_GONE_WITHIN_S * 1e6)
    while True:
        stats = _control(control_port, "/bench/stats")
        seen = {int(key): value for key, value in stats["closed_us"].items()}
        if closed_us.keys() <= seen.keys() or now_us() > end_us:
            return seen
        time.sleep(0.01)


def big_bodies(
    port: int, pids: Sequence[int], size_bytes: int, at_once: int, sequential: int
) -> dict[str, Any]:
    """Requests with an image: one after the other for time and CPU, then at once for memory.

    The engine answers with the checksum of the body it got; it is compared here.
    """
    image = base64.b64encode(os.urandom(size_bytes * 3 // 4)).decode()
    requests = [
        wire.request(wire.Order(number + 1), port, image_base64=image) for number in range(at_once)
    ]
    del image
    problems: list[str] = []
    cpu_before_s = procs.cpu_s(pids)
    wall_ms = [_send_big(port, 0, requests, problems) for _ in range(sequential)]
    cpu_used_s = procs.cpu_s(pids) - cpu_before_s
    procs.reset_peak(pids)
    before_mb = procs.rss_mb(pids)
    threads = [
        threading.Thread(target=_send_big, args=(port, number, requests, problems))
        for number in range(at_once)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {
        "cpu_ms": cpu_used_s * 1000 / sequential,
        "wall_ms": statistics.median(wall_ms),
        "rss_before_mb": before_mb,
        "peak_rss_mb": procs.peak_rss_mb(pids),
        "problems": problems,
    }


def _send_big(port: int, number: int, requests: list[bytes], problems: list[str]) -> float:
    request = requests[number]
    body_crc = zlib.crc32(memoryview(request)[request.index(b"\r\n\r\n") + 4 :])
    expected = wire.answer(number + 1, body_crc)
    start_us = now_us()
    try:
        with socket.create_connection(("127.0.0.1", port), 60) as sock:
            sock.sendall(request)
            data = b""
            while not data.endswith(expected):
                more = sock.recv(65536)
                if not more:
                    problems.append(f"wrong answer to a large body: {data[:60]!r}")
                    break
                data += more
    except OSError as broken:
        problems.append(f"large body: {broken}")
    return (now_us() - start_us) / 1000


def backpressure(
    port: int,
    pids: Sequence[int],
    *,
    control_port: int,
    total_mb: int,
    wait_s: float,
    dialect: str = "ollama",
) -> dict[str, Any]:
    """A client that reads one piece and stops, of a stream sent at full speed in 8 KB chunks.

    What the engine got rid of and how much the proxy grew tell who holds the rest.
    """
    _control(control_port, "/bench/reset")
    procs.reset_peak(pids)
    before_mb = procs.rss_mb(pids)
    order = wire.Order(1, total_mb * 1000_000 // 8192, 0, 0, 8192)
    with socket.create_connection(("127.0.0.1", port), 10) as sock:
        sock.sendall(_REQUEST[dialect](order, port))
        sock.recv(1024)
        time.sleep(wait_s)
        taken_bytes = _control(control_port, "/bench/stats")["flood_bytes"]
        growth_mb = max(0.0, procs.peak_rss_mb(pids) - before_mb)
    return {"taken_mb": taken_bytes / 1e6, "growth_mb": growth_mb, "problems": []}
