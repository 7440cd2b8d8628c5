"""How many requests an engine runs at once, from environments."""

import os
import socket
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_herd.agent.engine_limits import (
    CONTEXT,
    KEEP_ALIVE,
    MAX_LOADED,
    SLOTS,
    Limits,
    find_process,
    limits_of,
    parse_systemd_environment,
    read_limits,
)


@pytest.mark.parametrize(
    ("value", "slots"),
    [("4", 4), (" 4 ", 4), ('"4"', 4), ("0", None), ("-1", None), ("x", None), ("", None),
     ("99999", None), ("9" * 5000, None), ("٤", None)],
)  # fmt: skip
def test_a_number_that_makes_sense_counts(value: str, slots: int | None) -> None:
    assert limits_of({SLOTS: value}) == Limits(slots=slots)


def test_both_variables() -> None:
    assert limits_of({SLOTS: "2", MAX_LOADED: "3", "OTHER": "9"}) == Limits(2, 3)


@given(st.dictionaries(st.sampled_from([SLOTS, MAX_LOADED]), st.text(max_size=12)))
def test_any_environment_gives_positive_limits_or_none(environment: dict[str, str]) -> None:
    limits = limits_of(environment)
    assert limits.slots is None or limits.slots > 0
    assert limits.max_loaded is None or limits.max_loaded > 0


@pytest.mark.parametrize(
    ("value", "length"), [("8192", 8192), ("0", 0), ("", 0), ("many", 0), ("99999999", 0)]
)
def test_the_default_context_is_told(value: str, length: int) -> None:
    assert limits_of({CONTEXT: value}).context_length == length


def test_what_systemd_shows() -> None:
    text = (
        "Environment=PATH=/usr/local/bin:/usr/bin OLLAMA_HOST=0.0.0.0 "
        '"OLLAMA_NUM_PARALLEL=4" OLLAMA_MAX_LOADED_MODELS=2\nLoadState=loaded\n'
    )
    found = parse_systemd_environment(text)
    assert found.is_whole
    assert limits_of(found.variables, is_whole=True) == Limits(4, 2, keep_alive="default")


def test_a_unit_with_files_may_set_more_than_is_shown() -> None:
    files = "EnvironmentFiles=/etc/default/ollama (ignore_errors=no)\n"
    found = parse_systemd_environment(f"Environment=A=b\n{files}LoadState=loaded\n")
    assert not found.is_whole


@pytest.mark.parametrize(
    ("value", "is_whole", "told"),
    [(" 24h ", True, "24h"), ("-1", False, "-1"), ("", True, "default"), ("", False, ""),
     ("5m", True, "5m"), ("x" * 99, True, "x" * 50)],
)  # fmt: skip
def test_whether_somebody_chose_a_keep_alive_is_told(value, is_whole, told) -> None:
    assert limits_of({KEEP_ALIVE: value}, is_whole=is_whole).keep_alive == told


def test_a_keep_alive_that_is_not_there_is_the_default_only_where_all_is_seen() -> None:
    assert limits_of({}, is_whole=True).keep_alive == "default"
    assert limits_of({}).keep_alive == ""


@pytest.mark.parametrize(
    "text",
    ["", "Environment=\nLoadState=not-found\n", 'Environment="a\nLoadState=loaded\n', "nonsense"],
)
def test_no_unit_no_environment(text: str) -> None:
    assert parse_systemd_environment(text) is None


def test_a_unit_without_variables_states_nothing() -> None:
    assert parse_systemd_environment("Environment=\nLoadState=loaded\n") == ({}, True)


LISTEN = (
    "import socket,sys\ns=socket.create_server(('127.0.0.1',0))\n"
    "print(s.getsockname()[1],flush=True)\nsys.stdin.read()"
)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a link as a program's name")
def test_the_environment_of_the_listening_process_counts(tmp_path) -> None:
    program = tmp_path / "ollama"
    program.symlink_to(sys.executable)
    environment = os.environ | {SLOTS: "7", MAX_LOADED: "3", "PYTHONHOME": sys.base_prefix}
    with subprocess.Popen(
        [program, "-S", "-c", LISTEN],
        env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        port = int(process.stdout.readline())
        assert find_process(port).pid == process.pid
        assert read_limits(port, {SLOTS: "1"}) == Limits(7, 3, keep_alive="default")
        process.stdin.close()


def test_a_process_that_is_no_engine_does_not_count() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        assert find_process(port).pid == os.getpid()
        own = {SLOTS: "5"}
        assert read_limits(port, own) in (Limits(5), Limits())  # () where a service states nothing
