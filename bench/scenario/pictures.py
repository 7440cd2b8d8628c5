"""The dashboard, open in a browser while the scenario runs, and its pictures."""

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT))

from tests.web import browser  # noqa: E402


class Pictures:
    """`start` opens the dashboard; the pictures are there after `wait`."""

    def __init__(self, folder: Path, lasts_s: float) -> None:
        self._folder = folder
        self._lasts_s = lasts_s
        self._thread: threading.Thread | None = None
        self._trouble = ""

    def start(self, port: int) -> None:
        lacking = browser.missing()
        if lacking:
            self._trouble = lacking
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        url = f"http://127.0.0.1:{port}"
        self._thread = threading.Thread(target=self._shoot, args=(url,), name="pictures")
        self._thread.start()

    def wait(self) -> str:
        """What went wrong, "" for nothing."""
        if self._thread is not None:
            self._thread.join()
        return self._trouble

    def _shoot(self, url: str) -> None:
        try:
            browser.shoot(url, self._shots())
        except (subprocess.SubprocessError, OSError) as error:
            self._trouble = str(error)

    def _shots(self) -> list[dict[str, Any]]:
        """The fleet page stays open for almost half of the time, then each page is looked at."""
        shots = [
            {"name": "fleet", "wait": "article", "settle_ms": int(400 * self._lasts_s)},
            {
                "name": "request",
                "hash": "requests",
                "wait": "tr[data-row]",
                "click": "tr[data-row]",
                "settle_ms": 1500,
            },
            {"name": "requests", "hash": "requests", "wait": "tr[data-row]"},
            {"name": "models", "hash": "models", "wait": "tbody tr"},
            {"name": "trends", "hash": "trends", "wait": "canvas", "settle_ms": 1500},
        ]
        return [
            {**shot, "file": str((self._folder / f"day-{shot.pop('name')}.png").resolve())}
            for shot in shots
        ]
