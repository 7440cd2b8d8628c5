"""What reaches stderr: our lines and those of libraries, and no value of a variable."""

import subprocess
import sys

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
