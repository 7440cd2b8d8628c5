"""How a process of ours lives and ends: its home, its signals, and one clear line when it cannot.

The first SIGINT or SIGTERM cancels the running work, which shuts down cleanly; a second one, or
a shutdown that takes too long, ends the process at once.
"""

import asyncio
import errno
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, Protocol

import structlog

from ollama_herd import logs
from ollama_herd.config import Settings
from ollama_herd.homelock import HomeInUseError, HomeLock
from ollama_herd.logfile import LogFile

_log = structlog.get_logger(__name__)


def fail(message: str, *, code: int = 1) -> NoReturn:
    """Say in one line why we end, and end. Code 2 is for what the user wrote wrongly."""
    print(f"{Path(sys.argv[0]).stem}: {message}", file=sys.stderr)  # noqa: T201 - not a log line
    raise SystemExit(code)


def start_logging(settings: Settings) -> None:
    """Log as the settings say; fail when their file cannot be written."""
    file = None
    if settings.log_file:
        path = settings.home / Path(settings.log_file).expanduser()
        try:
            file = LogFile(path, settings.log_file_max_bytes)
        except OSError as error:
            fail(f"the log file {path} cannot be written: {error.strerror}; correct log_file")
    logs.setup(settings.log_level, file)


@contextmanager
def held_home(home: Path, lock_name: str) -> Iterator[None]:
    """Make the home folder and keep other processes of our kind out of it; else fail."""
    with ExitStack() as held:
        try:
            home.mkdir(mode=0o700, parents=True, exist_ok=True)
            held.enter_context(HomeLock(home / lock_name))
        except HomeInUseError as error:
            other = f" (process {error.pid})" if error.pid else ""
            fail(f"already running{other} with the home {home}; stop it, or give this one --home")
        except OSError as error:
            fail(f"the home {home} cannot be used: {error.strerror}; choose another with --home")
        yield


class _Stop(Protocol):
    def __call__(self, number: int, frame: FrameType | None, /) -> None: ...


def run(work: Callable[[], Coroutine[Any, Any, None]], *, shutdown_s: float) -> None:
    """Run `work` until it ends or a signal comes; its failure is the caller's.

    `shutdown_s` is how long the work may take to end after the first signal.
    """
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_until_signalled(work, shutdown_s))


async def _until_signalled(
    work: Callable[[], Coroutine[Any, Any, None]], shutdown_s: float
) -> None:
    task = asyncio.current_task()
    if task is None:
        raise AssertionError("a coroutine runs in a task")
    stopped = threading.Event()
    _take_signals(_stopper(asyncio.get_running_loop(), task, stopped, shutdown_s))
    try:
        await work()
    except asyncio.CancelledError:
        if not stopped.is_set():
            raise


def _stopper(
    loop: asyncio.AbstractEventLoop,
    task: asyncio.Task[Any],
    stopped: threading.Event,
    shutdown_s: float,
) -> _Stop:
    def stop(number: int, _frame: FrameType | None, /) -> None:
        if stopped.is_set():
            os._exit(128 + number)
        stopped.set()
        watchdog = threading.Timer(shutdown_s, _give_up, [shutdown_s])
        watchdog.daemon = True
        watchdog.start()
        loop.call_soon_threadsafe(_cancel, task)

    return stop


def _cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()  # first: whatever becomes of the line, we end
    _log.info("stopping; a second signal ends at once")


def _give_up(shutdown_s: float) -> None:
    message = f"{Path(sys.argv[0]).stem}: not shut down after {shutdown_s:g} s; ended\n"
    with suppress(OSError):  # nobody may read it any more
        os.write(2, message.encode())
    os._exit(1)


def _take_signals(stop: _Stop) -> None:
    # Not loop.add_signal_handler: it waits for the loop, and a second signal must end a process
    # whose loop is stuck; it also is missing on Windows.
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    if sys.platform == "win32":
        signal.signal(signal.SIGBREAK, stop)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Of uvloop where there is one; None is Python's own."""
    try:
        import uvloop  # noqa: PLC0415 - not on Windows
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


_ADDRESS_ERRORS = {
    errno.EADDRNOTAVAIL: "this machine has no such address; choose another with --host",
    errno.EACCES: "not allowed; choose a port above 1023 with --port",
}


def explain_listening(error: OSError, host: str, port: int) -> str:
    """Why a server that listens on `host` and `port` could not start, and what to do."""
    if error.errno == errno.EADDRINUSE:
        user = _who_listens(port)
        return f"port {port} is in use by {user}; stop that, or choose another with --port"
    reason = _ADDRESS_ERRORS.get(error.errno or 0)
    if isinstance(error, socket.gaierror):
        reason = "there is no such address; choose another with --host"
    if reason is not None and error.filename is None:
        return f"cannot listen on {host} port {port}: {reason}"
    return f"stopped: {error}"


def _who_listens(port: int) -> str:
    import psutil  # noqa: PLC0415 - asked once, when we cannot start

    try:
        for entry in psutil.net_connections("tcp"):
            local = (entry.status, *entry.laddr[1:])
            if local == (psutil.CONN_LISTEN, port) and entry.pid:
                return f"{psutil.Process(entry.pid).name()} (process {entry.pid})"
    except (psutil.Error, OSError):
        pass  # macOS tells root only
    return "another program"
