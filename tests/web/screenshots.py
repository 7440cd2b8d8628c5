"""Pictures of every page of the dashboard: `python -m tests.web.screenshots FOLDER`.

The machines and models are made up; the requests really went through the router, one of them after
a failed attempt.
"""

import math
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ollama_herd import clock
from ollama_herd.core.request import Usage
from ollama_herd.core.trace import Trace
from ollama_herd.store.database import Database
from ollama_herd.store.traces import open_traces
from tests.e2e.processes import Herd
from tests.fakes.state import Fault, Scripted, Settings
from tests.store import samples
from tests.web import browser
from tests.web.fleet import STUDIO, TOWER, fleet, large_fleet

DAY_S = 86_400.0
SAID = """Sunlight is made of all colours. On its way through the air it meets molecules far
smaller than its waves, and these scatter blue light more than four times as strongly as red. So
blue comes to your eyes from everywhere in the sky, while the other colours mostly go straight on.
At sunset the way through the air is so long that hardly any blue is left, and what reaches you is
orange and red."""
ANSWER = tuple(f"{word} " for word in SAID.split())
TALK_S = 40.0
BREAK_EVERY_S = 4.0
CLIENTS = 8
MODELS = ("qwen3:32b", "qwen3:32b", "gemma3:27b", "llama3.3:70b", "qwen3:8b")

MACHINES = (STUDIO, replace(TOWER, disk_free_gb=6))
"""One of them gives the page Health something to say."""

BUSY: Sequence[dict[str, Any]] = (
    {"file": "fleet.png", "wait": "text=Latest requests", "settle_ms": 1500},
    {"file": "fleet-light.png", "wait": "text=Latest requests", "theme": "light"},
    {"file": "fleet-phone.png", "width": 390, "height": 844, "wait": "article"},
)
"""Taken while clients ask."""

SMALL: Sequence[dict[str, Any]] = (
    {"file": "requests.png", "hash": "requests", "wait": "tr[data-row]"},
    {
        "file": "request.png",
        "hash": "requests?model=gemma3%3A27b",
        "wait": "tr[data-row]",
        "click": "tr[data-row]:not(:has([data-tries]))",
        "settle_ms": 1500,
    },
    {
        "file": "failover.png",
        "hash": "requests",
        "wait": "tr[data-row]",
        "click": "tr[data-row]:has([data-tries])",
        "settle_ms": 1500,
    },
    {"file": "models.png", "hash": "models", "wait": "tbody tr"},
    {"file": "health.png", "hash": "health", "wait": "[data-check]", "settle_ms": 1500},
    {"file": "settings.png", "hash": "settings", "wait": "[data-setting]"},
    {"file": "trends.png", "hash": "trends?range=24h", "wait": "canvas", "settle_ms": 1500},
    {
        "file": "request-phone.png",
        "width": 390,
        "height": 844,
        "hash": "requests",
        "wait": "tr[data-row]",
        "click": "tr[data-row]",
        "settle_ms": 1500,
    },
    {
        "file": "playground.png",
        "hash": "playground",
        "wait": "textarea",
        "type": {"textarea": "Why is the sky blue?"},
        "press": "Enter",
        "settle_ms": 3000,
    },
)
LARGE: Sequence[dict[str, Any]] = ({"file": "fleet-50.png", "wait": "tbody tr"},)


def main(folder: Path) -> None:
    """Write all pictures. Raises RuntimeError when there is no browser."""
    lacking = browser.missing()
    if lacking:
        raise RuntimeError(lacking)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as home:
        small = Path(home, "small")
        small.mkdir()
        _remember(small / "router-home")
        with Herd(small).ready() as herd, fleet(herd, MACHINES, settings=_lively) as (_, fakes):
            busy = _into(folder, BUSY)
            _talk(
                herd,
                lambda: fakes[0].fail_next(Fault.CLOSE),
                lambda: browser.shoot(_url(herd), busy),
            )
            for fake in fakes:
                fake.script(Scripted(tokens=ANSWER))
            browser.shoot(_url(herd), _into(folder, SMALL))
        large = Path(home, "large")
        large.mkdir()
        with Herd(large).ready() as herd, fleet(herd, large_fleet(50), engines=4):
            browser.shoot(_url(herd), _into(folder, LARGE))
    _shrink(folder)


def _shrink(folder: Path) -> None:
    """Half the size, where pngquant is installed: the pages have few colours."""
    if shutil.which("pngquant") is None:
        return
    for shot in (*BUSY, *SMALL, *LARGE):
        options = ["--force", "--skip-if-larger", "--ext", ".png", "--quality", "85-100"]
        # 98 and 99: it would not be smaller, or not good enough; the picture stays then.
        subprocess.run(["pngquant", *options, folder / shot["file"]], check=False)


def _remember(home: Path) -> None:
    """A day of requests before the router was started, more of them by day and few by night."""
    home.mkdir(mode=0o700)
    store = open_traces(Database(home))
    draw = random.Random(3)
    end_s = clock.now_s() - 60.0
    at_s = end_s - DAY_S
    while at_s < end_s:
        share = 0.5 + 0.5 * math.cos(2 * math.pi * (at_s - end_s) / DAY_S + 0.6)
        at_s += draw.expovariate(0.05 + 1.2 * share)
        while store.health().pending > 5000:
            time.sleep(0.01)
        store.put(_earlier(draw, at_s, 1.0 + 1.5 * share))
    store.close(30.0)


def _earlier(draw: random.Random, started_s: float, load: float) -> Trace:
    name = draw.choice(MODELS)
    node = "id-0" if name == "llama3.3:70b" else draw.choice(("id-0", "id-1"))
    queue_ms = max(0.2, draw.gauss(40.0, 60.0) * (load - 1.0))
    ttft_ms = queue_ms + draw.lognormvariate(5.2, 0.5) * load
    prompt, output = draw.randint(40, 1800), draw.randint(20, 400)
    is_broken = draw.random() < 0.008
    decode_ms = output * draw.uniform(11.0, 24.0)
    return samples.trace(
        model=name,
        started_s=started_s,
        node_id=node,
        attempts=(samples.attempt(node_id=node, model=name),),
        decision=None,
        queue_ms=queue_ms,
        ttft_ms=-1.0 if is_broken else ttft_ms,
        total_ms=ttft_ms + decode_ms,
        status=502 if is_broken else 200,
        error="unreachable" if is_broken else "",
        usage=Usage(prompt_tokens=prompt, output_tokens=output, decode_ms=decode_ms),
    )


def _lively() -> Settings:
    return Settings(token_ms=12, prefill_ms=90, num_parallel=4)


def _url(herd: Herd) -> str:
    return f"http://127.0.0.1:{herd.port}"


def _into(folder: Path, shots: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**shot, "file": str((folder / shot["file"]).resolve())} for shot in shots]


def _talk(herd: Herd, break_one: Callable[[], object], at_last: Callable[[], object]) -> None:
    """Several clients ask for a while; now and then an engine breaks off. They still ask while
    `at_last` runs.
    """
    is_over = threading.Event()

    def client(number: int) -> None:
        draw = random.Random(number)
        while not is_over.wait(draw.uniform(0.1, 0.6)):
            body = {
                "model": draw.choice(MODELS),
                "messages": [{"role": "user", "content": "word " * draw.randint(5, 600)}],
                "options": {"num_predict": draw.randint(20, 90)},
            }
            herd.call("POST", "/api/chat", body, timeout_s=60)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(int(TALK_S / BREAK_EVERY_S)):
            time.sleep(BREAK_EVERY_S)
            break_one()
        at_last()
        for _ in range(4):  # one of them meets a model that another node has, too
            break_one()
            time.sleep(0.7)
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images"))
