"""What reaches stderr: our lines and those of libraries, and no value of a variable."""

import contextlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import logging, structlog
from ollama_herd import logs
log = structlog.get_logger("early")
logs.setup("{level}")
log.debug("a detail", size=3)
log.info("it works", port=1)
logging.getLogger("zeroconf").info("chatter")
logging.getLogger("aiohttp.server").warning("a library %s", "warns")
def answer(prompt):
    raise ValueError("no good")
try:
    answer("my secret prompt")
except ValueError:
    log.error("broken", exc_info=True)
"""


def lines(level: str) -> str:
    ran = subprocess.run(
        [sys.executable, "-c", CODE.format(level=level)],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert ran.stdout == ""
    return ran.stderr


def test_lines_have_level_and_values() -> None:
    told = lines("info")
    assert "[info     ] it works port=1\n" in told
    assert "a detail" not in told
    assert "chatter" not in told
    assert "[warning  ] a library warns\n" in told


def test_levels() -> None:
    assert "a detail size=3" in lines("debug")
    assert "it works" not in lines("error")


def test_a_traceback_shows_no_variables() -> None:
    told = lines("info")
    assert "ValueError: no good" in told
    assert "secret" not in told.replace('answer("my secret prompt")', "")


SERVER = """
import asyncio
from aiohttp import web
from ollama_herd import logs
logs.setup("{level}")
async def main():
    runner = web.AppRunner(web.Application())
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    reader, writer = await asyncio.open_connection(*runner.addresses[0])
    writer.write(b"POST / HTTP/1.1\\r\\nHost: x\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n")
    writer.write(b"a secret prompt\\r\\n")
    assert b"400" in await reader.read()
    writer.close()
    await runner.cleanup()
asyncio.run(main())
"""


@pytest.mark.parametrize(("level", "lines_told"), [("info", 0), ("debug", 1)])
def test_bytes_of_a_bad_request_are_not_quoted(level: str, lines_told: int) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", SERVER.format(level=level)],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert "secret" not in ran.stderr
    assert ran.stderr.count("[debug    ] a peer sent what is not HTTP") == lines_told


TO_FILE = r"""
import logging, pathlib, sys, structlog
from ollama_herd import logs
from ollama_herd.logfile import LogFile
path = pathlib.Path(sys.argv[1])
logs.setup("info", LogFile(path, 10_000))
log = structlog.get_logger("early")
log.debug("a detail")
log.info("it works", port=1, name="h\u00e9\nrd", path=path, time_s=1.5)
logging.getLogger("aiohttp.server").warning("a library %s", "warns")
def answer(prompt):
    raise ValueError("no good")
try:
    answer("my " + "secret prompt")
except ValueError:
    log.error("broken", exc_info=True)
for number in range(int(sys.argv[2])):
    log.info("again", number=number)
"""


def to_file(path: Path, count: int = 0) -> str:
    ran = subprocess.run(
        [sys.executable, "-c", TO_FILE, str(path), str(count)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return ran.stderr


def test_the_file_has_one_object_a_line(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "herd.log"
    shown = to_file(path)
    assert "it works" in shown
    told = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [one["event"] for one in told] == ["it works", "a library warns", "broken"]
    assert [one["level"] for one in told] == ["info", "warning", "error"]
    assert list(told[0])[:3] == ["time", "level", "event"]
    assert (told[0]["port"], told[0]["name"], told[0]["path"]) == (1, "h\u00e9\nrd", str(path))
    assert told[0]["time"].endswith("Z")
    assert "ValueError: no good" in told[2]["exception"]
    assert "my secret prompt" not in path.read_text(encoding="utf-8")
    if sys.platform != "win32":
        assert path.stat().st_mode & 0o077 == 0


def test_files_are_rotated_and_few(tmp_path: Path) -> None:
    to_file(tmp_path / "herd.log", 2000)
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["herd.log", *(f"herd.log.{n}" for n in range(1, 6))]
    assert all(path.stat().st_size <= 10_000 for path in tmp_path.iterdir())
    last = (tmp_path / "herd.log").read_text().splitlines()[-1]
    assert json.loads(last)["number"] == 1999


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a disk that is full")
def test_a_full_disk_costs_lines_only(tmp_path: Path) -> None:
    (tmp_path / "herd.log").symlink_to("/dev/full")
    assert to_file(tmp_path / "herd.log", 10).count("again") == 10


TERMINAL = """
import structlog
from ollama_herd import logs
logs.setup("info")
log = structlog.get_logger()
log.warning("node joined", node="evil\\x1b[2J[bold]x[/bold]", size=3)
try:
    raise ValueError("no good")
except ValueError:
    log.error("broken", exc_info=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals like these")
def test_a_person_at_a_terminal_sees_colours_and_no_tricks() -> None:
    ours, theirs = os.openpty()
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "60"}
    env.pop("NO_COLOR", None)
    command = [sys.executable, "-c", TERMINAL]
    with subprocess.Popen(command, stderr=theirs, stdout=subprocess.PIPE, env=env) as process:
        os.close(theirs)
        told = b""
        with contextlib.suppress(OSError):  # the end of a pseudo-terminal on Linux
            while data := os.read(ours, 65536):
                told += data
        assert process.wait(30) == 0
    os.close(ours)
    text = told.decode()
    assert "\x1b[1;33m warning" in text
    assert "\x1b[2J" not in text
    lines = re.sub(r"\x1b\[[\d;]*m", "", text).split("\r\n")
    assert lines[0].endswith("warning  node joined  node=evil\ufffd[2J[bold]x[/bold]  size=3")
    assert "ValueError: no good" in lines
