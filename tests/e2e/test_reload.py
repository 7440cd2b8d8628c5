"""SIGHUP: the settings file is read again, what needs no restart counts at once."""

import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.processes import Herd, wait_until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGHUP")


def value(herd: Herd, name: str) -> Any:
    told = herd.call("GET", "/dashboard/api/settings").json()["settings"]
    return next(setting["value"] for setting in told if setting["name"] == name)


def test_the_file_is_read_again(tmp_path: Path) -> None:
    with Herd(tmp_path).ready() as herd:
        file = herd.home / "herd.toml"
        assert value(herd, "max_attempts") == 3

        file.write_text("max_attempts = 5\nidle_timeout_s = 99\n")
        herd.signal(signal.SIGHUP)
        wait_until(lambda: value(herd, "max_attempts") == 5, 20, "the new value")
        assert value(herd, "idle_timeout_s") == 300
        wait_until(lambda: "after_a_restart=['idle_timeout_s']" in herd.log(), 20, "the log line")

        file.write_text("max_attempts = 'many'\n")
        herd.signal(signal.SIGHUP)
        wait_until(lambda: "settings stay as they are" in herd.log(), 20, "the refusal")
        assert "max_attempts = 'many' is not valid" in herd.log()
        assert value(herd, "max_attempts") == 5
        assert herd.call("GET", "/api/version").status == 200
