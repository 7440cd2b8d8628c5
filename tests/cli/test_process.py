"""Signals, and what is said when a port or a home is taken: real processes, real signals."""

import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ollama_herd.cli.process import explain_listening

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")

WORK = """
import asyncio, sys, time
from ollama_herd import logs
from ollama_herd.cli import process
logs.setup("info")
async def work():
    print("ready", flush=True)
    try:
        await asyncio.sleep(60)
    finally:
        {cleanup}
        print("cleaned", flush=True)
process.run(work, shutdown_s={shutdown_s})
print("returned", flush=True)
"""


@contextmanager
def working(cleanup: str = "pass", shutdown_s: float = 30.0) -> Iterator[subprocess.Popen[str]]:
    code = WORK.format(cleanup=cleanup, shutdown_s=shutdown_s)
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            yield child
        finally:
            child.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_shuts_down_cleanly(number: signal.Signals) -> None:
    with working() as child:
        child.send_signal(number)
        out, errors = child.communicate(timeout=10)
        assert out == "cleaned\nreturned\n"
        assert "a second signal ends at once" in errors
        assert child.returncode == 0


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize(
    "cleanup",
    [
        pytest.param("await asyncio.sleep(60)", id="waiting"),
        pytest.param("print('stuck', flush=True); time.sleep(60)", id="blocked"),
    ],
)
def test_a_second_signal_ends_at_once(cleanup: str, number: int, status: int) -> None:
    with working(f"print('busy', flush=True); {cleanup}") as child:
        child.send_signal(signal.SIGTERM)
        assert child.stdout is not None
        assert child.stdout.readline() == "busy\n"
        child.send_signal(number)
        assert child.wait(timeout=5) == status


def test_a_shutdown_that_takes_too_long_is_ended() -> None:
    with working("time.sleep(60)", shutdown_s=0.3) as child:
        child.send_signal(signal.SIGTERM)
        _, errors = child.communicate(timeout=10)
        assert child.returncode == 1
        assert "not shut down after 0.3 s" in errors


def test_a_failure_of_the_work_reaches_the_caller() -> None:
    code = (
        "from ollama_herd.cli import process\n"
        "async def work(): raise OSError(28, 'full')\n"
        "try: process.run(work, shutdown_s=1)\n"
        "except OSError as error: print(error.errno)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert ran.stdout == "28\n"


def test_a_port_in_use_names_its_user() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        told = explain_listening(OSError(errno.EADDRINUSE, "in use"), "0.0.0.0", port)
    assert f"port {port} is in use by " in told
    assert f"(process {os.getpid()})" in told
    assert "--port" in told


@pytest.mark.parametrize(
    ("error", "parts"),
    [
        (OSError(errno.EADDRNOTAVAIL, "x"), ["192.0.2.1 port 80", "--host"]),
        (OSError(errno.EACCES, "x"), ["not allowed", "--port"]),
        (socket.gaierror(-2, "x"), ["no such address", "--host"]),
        (OSError(errno.EACCES, "Permission denied", "/some/file"), ["stopped", "/some/file"]),
        (OSError(errno.ENOSPC, "No space left"), ["stopped", "No space left"]),
    ],
)
def test_other_reasons(error: OSError, parts: list[str]) -> None:
    told = explain_listening(error, "192.0.2.1", 80)
    assert [part for part in parts if part not in told] == []
    assert "\n" not in told
