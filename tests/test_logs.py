"""What reaches stderr: our lines and those of libraries, and no value of a variable."""

import subprocess
import sys

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
