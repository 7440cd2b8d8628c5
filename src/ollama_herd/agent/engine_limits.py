"""How many requests an Ollama runs at once, and how long it keeps models: its environment tells.

The environment of its process counts; where that may not be read (another user's), that of the
service; else the agent's own, since people set such variables for the whole machine.
"""

import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec
import psutil

SLOTS = "OLLAMA_NUM_PARALLEL"
MAX_LOADED = "OLLAMA_MAX_LOADED_MODELS"
CONTEXT = "OLLAMA_CONTEXT_LENGTH"
KEEP_ALIVE = "OLLAMA_KEEP_ALIVE"

_COMMAND_TIMEOUT_S = 2.0
_MOST = 1024  # more is a typing error: no engine runs so many
_LONGEST = 16 * 2**20  # tokens; no model was trained on more
_LONGEST_TEXT = 50  # of a duration

DEFAULT = "default"
"""Nobody has set it, for sure."""


class Limits(msgspec.Struct, frozen=True):
    """`slots` and `max_loaded` as in EngineReport, None when nothing tells; `context_length` of
    requests that name none, 0 when nothing tells; `keep_alive` as in EngineReport.
    """

    slots: int | None = None
    max_loaded: int | None = None
    context_length: int = 0
    keep_alive: str = ""


class Environment(NamedTuple):
    """Variables, and whether they are all: what is not among them is not set then."""

    variables: Mapping[str, str]
    is_whole: bool


def read_limits(port: int, own: Mapping[str, str]) -> Limits:
    """The limits of the Ollama that listens on `port`; `own` is the agent's environment.

    Blocks for some seconds at most.
    """
    process = find_process(port)
    variables = _environment(process) if process else None
    found = Environment(variables, is_whole=True) if variables is not None else None
    if found is None and sys.platform == "linux":
        found = _of_systemd()
    if found is None and sys.platform == "darwin":
        found = _of_launchd(own)
    found = found or Environment(own, is_whole=False)
    return limits_of(found.variables, is_whole=found.is_whole)


def limits_of(environment: Mapping[str, str], *, is_whole: bool = False) -> Limits:
    """The limits that an environment states. 0 means automatic, and so nothing."""
    return Limits(
        _count(environment.get(SLOTS, "")),
        _count(environment.get(MAX_LOADED, "")),
        _count(environment.get(CONTEXT, ""), _LONGEST) or 0,
        environment.get(KEEP_ALIVE, "").strip()[:_LONGEST_TEXT] or (DEFAULT if is_whole else ""),
    )


def parse_systemd_environment(text: str) -> Environment | None:
    """`systemctl show --property=LoadState,Environment,EnvironmentFiles`; None when there is no
    such unit. Variables from files are not shown.
    """
    properties = dict(line.partition("=")[::2] for line in text.splitlines() if "=" in line)
    if properties.get("LoadState") != "loaded":
        return None
    try:
        settings = shlex.split(properties.get("Environment", ""))
    except ValueError:
        return None
    variables = dict(setting.partition("=")[::2] for setting in settings)
    return Environment(variables, is_whole=not properties.get("EnvironmentFiles"))


def find_process(port: int) -> psutil.Process | None:
    """The process that listens on `port`, or the only `ollama serve` when nobody may see that."""
    try:
        for connection in psutil.net_connections("tcp"):
            listens = connection.status == psutil.CONN_LISTEN
            if listens and connection.laddr and connection.laddr.port == port and connection.pid:
                return psutil.Process(connection.pid)
    except psutil.Error:  # macOS: needs root
        pass
    servers = [process for process in psutil.process_iter() if _serves(process)]
    return servers[0] if len(servers) == 1 else None


def _serves(process: psutil.Process) -> bool:
    try:
        name = process.name().lower()
        return name.startswith("ollama") and "serve" in process.cmdline()
    except psutil.Error:
        return False


def _environment(process: psutil.Process) -> dict[str, str] | None:
    """None when it may not be read, or is not an engine's (a container's port forwarder)."""
    try:
        if not process.name().lower().startswith("ollama"):
            return None
        return process.environ() or None  # macOS gives nothing for protected programs
    except (psutil.Error, OSError):
        return None


def _of_systemd() -> Environment | None:
    """Ollama's installer for Linux makes a service `ollama` that runs as a user of its own."""
    wanted = "--property=LoadState,Environment,EnvironmentFiles"
    text = _output(["systemctl", "show", "ollama.service", wanted])
    return parse_systemd_environment(text) if text else None


def _of_launchd(own: Mapping[str, str]) -> Environment | None:
    """What `launchctl setenv` set: the way that Ollama's documentation shows for its Mac app. What
    is set there is whole as far as that app goes; a server started in a shell has another one.
    """
    names = (SLOTS, MAX_LOADED, CONTEXT, KEEP_ALIVE)
    answers = {name: _output(["launchctl", "getenv", name]) for name in names}
    found = {name: answer.strip() for name, answer in answers.items() if answer}
    if not any(found.values()):
        found = {name: own[name] for name in names if name in own}
    return Environment(found, is_whole=None not in answers.values())


def _output(command: Sequence[str]) -> str | None:
    """What it printed; None when it could not be run, or failed."""
    try:
        done = subprocess.run(  # noqa: S603 - fixed commands, no shell
            command, capture_output=True, text=True, timeout=_COMMAND_TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return done.stdout


def _count(text: str, most: int = _MOST) -> int | None:
    text = text.strip().strip("\"'")
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= 8 else 0
    return number if 0 < number <= most else None
