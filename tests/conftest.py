"""Shared by all tests: when one fails, the logs of the processes it used are shown."""

import signal
from collections.abc import Generator
from typing import Any

import pytest

from tests.e2e.processes import LOGGING

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts background jobs like this, and all processes of the tests would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, Any, Any]:
    """Add what each running process logged lately to the report of a failure."""
    report = yield
    if report.failed and call.excinfo is not None:
        report.sections += [
            (f"log of {process.name}", process.log()[-6000:]) for process in LOGGING
        ]
    return report
