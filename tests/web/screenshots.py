"""Pictures of every page of the dashboard: `python -m tests.web.screenshots FOLDER`.

The machines and models are made up; the requests really went through the router, one of them after
a failed attempt.
"""

import random
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ollama_herd import clock
from tests.e2e.processes import Herd
from tests.fakes.state import Fault, Settings
from tests.web import browser
from tests.web.fleet import SMALL_FLEET, fleet, large_fleet

TALK_S = 40.0
CLIENTS = 6
MODELS = ("qwen3:32b", "qwen3:32b", "gemma3:27b", "llama3.3:70b", "qwen3:8b")

SMALL: Sequence[dict[str, Any]] = (
    {"file": "fleet.png", "wait": "text=Latest requests"},
    {"file": "fleet-light.png", "wait": "text=Latest requests", "theme": "light"},
    {"file": "fleet-phone.png", "width": 390, "height": 844, "wait": "article"},
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
    {"file": "trends.png", "hash": "trends", "wait": "canvas"},
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
        with Herd(small).ready() as herd, fleet(herd, SMALL_FLEET, settings=_lively) as (_, fakes):
            _talk(herd, lambda: fakes[0].fail_next(Fault.CLOSE))
            browser.shoot(_url(herd), _into(folder, SMALL))
        large = Path(home, "large")
        large.mkdir()
        with Herd(large).ready() as herd, fleet(herd, large_fleet(50), engines=4):
            browser.shoot(_url(herd), _into(folder, LARGE))


def _lively() -> Settings:
    return Settings(token_ms=12, prefill_ms=90, num_parallel=4)


def _url(herd: Herd) -> str:
    return f"http://127.0.0.1:{herd.port}"


def _into(folder: Path, shots: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**shot, "file": str((folder / shot["file"]).resolve())} for shot in shots]


def _talk(herd: Herd, break_one: Any) -> None:
    """Several clients ask for a while; now and then an engine breaks off."""
    until_s = clock.monotonic_s() + TALK_S

    def client(number: int) -> None:
        draw = random.Random(number)
        while clock.monotonic_s() < until_s:
            body = {
                "model": draw.choice(MODELS),
                "messages": [{"role": "user", "content": "word " * draw.randint(5, 600)}],
                "options": {"num_predict": draw.randint(20, 90)},
            }
            herd.call("POST", "/api/chat", body, timeout_s=60)
            time.sleep(draw.uniform(0.1, 1.2))

    threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    while clock.monotonic_s() < until_s - 4:
        time.sleep(4)
        break_one()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images"))
