"""The recording in the README is the output of a command that there is, and loads nothing."""

import re
import sys
from xml.etree import ElementTree as ET

from tools import recording

from tests.documents import DOCS

NAMESPACE = {"svg": "http://www.w3.org/2000/svg"}


def _lines(picture: str) -> list[str]:
    found: dict[str, str] = {}
    for text in ET.fromstring(picture).iterfind(".//svg:text", NAMESPACE):  # noqa: S314 - ours
        found[text.attrib["y"]] = found.get(text.attrib["y"], "") + (text.text or "")
    return list(found.values())


def test_what_a_command_writes_is_drawn_in_its_order_and_time() -> None:
    said = (
        'print("one", flush=True); time.sleep(0.3); print("\\033[1;31mtwo\\033[0m & " + "x" * 100)'
    )
    pieces = recording.record([sys.executable, "-c", f"import time; {said}"])
    drawn = recording.draw("a title", recording.runs("a command", pieces))
    assert _lines(drawn) == ["$ a command", "one", "two &", "x" * 92, "x" * 8]
    assert re.search(r"fill:#ff7b72;font-weight:bold[^>]*>two<", drawn)
    delays = [float(at) for at in re.findall(r"animation-delay:([\d.]+)s", drawn)]
    assert delays == sorted(delays)
    assert delays[2] - delays[1] > 0.2


def test_the_recording_shows_an_answer_that_outlives_its_node() -> None:
    picture = (DOCS / "images/demo.svg").read_text(encoding="utf-8")
    lines = _lines(picture)
    assert lines[0] == "$ herd demo --yes --once --failover"  # tests/test_docs.py knows its options
    assert re.fullmatch(
        r"\|\| here the engine of node-. was killed; node-. went on with .*", lines[-1]
    )
    assert not re.search(r"https?://(?!127\.0\.0\.1|www\.w3\.org/2000/svg)|@import|url\(", picture)
