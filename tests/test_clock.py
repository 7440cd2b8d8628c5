"""The hour of the week is the one on the wall."""

from datetime import UTC, datetime, timedelta

from ollama_herd import clock


def test_the_week_begins_on_monday_at_midnight_local_time(monkeypatch):
    for hours in range(0, 400, 7):
        at = (datetime(2026, 3, 2, tzinfo=UTC) + timedelta(hours=hours, seconds=7)).astimezone()
        monkeypatch.setattr(clock, "now_s", at.timestamp)
        day_s = (at.hour * 60 + at.minute) * 60 + at.second
        assert clock.week_s() == at.weekday() * 86_400 + day_s
