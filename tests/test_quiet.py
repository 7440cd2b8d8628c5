"""Quiet hours: what is understood, what is refused, and which minutes of the week are quiet."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_herd.config import ConfigError, NodeSettings, load, parse_quiet_hours, until_text
from ollama_herd.config.quiet import WEEK_MINUTES, quiet_for_min

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
DAY = 24 * 60


def at(day: str, time: str) -> int:
    hour, minute = time.split(":")
    return DAYS.index(day) * DAY + int(hour) * 60 + int(minute)


@pytest.mark.parametrize(
    ("hours", "day", "time", "until"),
    [
        (["22:00-07:00"], "wed", "21:59", ""),
        (["22:00-07:00"], "wed", "22:00", "07:00"),
        (["22:00-07:00"], "thu", "06:59", "07:00"),
        (["22:00-07:00"], "thu", "07:00", ""),
        (["22:00-07:00"], "sun", "23:00", "07:00"),
        (["22:00-07:00"], "mon", "00:00", "07:00"),
        (["fri 22:00-07:00"], "sat", "06:00", "07:00"),
        (["fri 22:00-07:00"], "fri", "06:00", ""),
        (["mon-fri 8:30 - 17:00"], "fri", "16:59", "17:00"),
        (["mon-fri 8:30-17:00"], "sat", "12:00", ""),
        (["sat-mon 1:00-2:00"], "mon", "01:30", "02:00"),
        (["sat-mon 1:00-2:00"], "tue", "01:30", ""),
        (["22:00-24:00", "00:00-07:00"], "tue", "23:00", "07:00"),
        (["sat 00:00-24:00", "sun 00:00-24:00"], "sat", "12:00", "00:00"),
        (["sat 00:00-24:00", "sun 00:00-24:00"], "sat", "00:00", "mon 00:00"),
    ],
)
def test_when_a_node_is_quiet(hours: list[str], day: str, time: str, until: str) -> None:
    expected = until if until != "00:00" else "mon 00:00"
    assert until_text(parse_quiet_hours(hours), at(day, time)) == expected


spans = st.tuples(
    st.integers(0, 6), st.integers(0, 6), st.integers(0, DAY - 1), st.integers(1, DAY)
).filter(lambda found: found[2] != found[3])


def text_of(span: tuple[int, int, int, int]) -> str:
    first, last, begin, end = span
    times = f"{begin // 60:02}:{begin % 60:02}-{end // 60:02}:{end % 60:02}"
    return f"{DAYS[first]}-{DAYS[last]} {times}"


@given(st.lists(spans, max_size=4), st.integers(0, WEEK_MINUTES - 1))
def test_a_minute_is_quiet_when_a_range_holds_it(
    found: list[tuple[int, int, int, int]], minute: int
) -> None:
    """Against a week painted minute by minute."""
    quiet = [False] * WEEK_MINUTES
    for first, last, begin, end in found:
        for number in range((last - first) % 7 + 1):
            start = (first + number) % 7 * DAY + begin
            for passed in range((end - begin) % DAY or DAY):
                quiet[(start + passed) % WEEK_MINUTES] = True
    ranges = parse_quiet_hours(map(text_of, found))
    left = quiet_for_min(ranges, minute)
    if all(quiet):
        assert left is None
        return
    assert left is not None
    assert all(quiet[(minute + passed) % WEEK_MINUTES] for passed in range(left))
    assert not quiet[(minute + left) % WEEK_MINUTES]
    assert bool(until_text(ranges, minute)) is quiet[minute]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HERD_HOME", str(tmp_path))
    return tmp_path


def test_they_are_read_from_everywhere(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = ("22:00-07:00", "sat-sun 07:00-10:00")
    (home / "node.toml").write_text('quiet_hours = ["22:00-07:00", "Sat-Sun  07:00-10:00"]\n')
    assert load(NodeSettings, {}).settings.quiet_hours == expected
    monkeypatch.setenv("HERD_NODE_QUIET_HOURS", "22:00-07:00, sat-sun 07:00-10:00")
    assert load(NodeSettings, {}).settings.quiet_hours == expected
    flags = {"quiet_hours": ["1:00-2:00"]}
    assert load(NodeSettings, flags).settings.quiet_hours == ("1:00-2:00",)
    assert load(NodeSettings, {"quiet_hours": []}).settings.quiet_hours == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("22-7", "'22-7' is no range of hours: write 22:00-07:00"),
        ("10pm-7am", "is no range of hours"),
        ("25:00-07:00", "names no time of a day: 25:00"),
        ("22:60-07:00", "names no time of a day: 22:60"),
        ("22:00-24:01", "names no time of a day: 24:01"),
        ("22:00-22:00", "begins where it ends; a whole day is 00:00-24:00"),
        ("24:00-07:00", "begins where it ends"),
        ("funday 22:00-07:00", "names no day of the week: funday; days are mon, tue"),
        ("mo 22:00-07:00", "names no day of the week: mo"),
        ("00:00-24:00", "cover the whole week; to keep a node out until you say otherwise"),
        ("22:00-07:00, 06:00-22:00", "cover the whole week"),
    ],
)
def test_what_is_wrong_is_said(
    home: Path, monkeypatch: pytest.MonkeyPatch, text: str, reason: str
) -> None:
    monkeypatch.setenv("HERD_NODE_QUIET_HOURS", text)
    with pytest.raises(ConfigError) as caught:
        load(NodeSettings, {})
    assert reason in str(caught.value)
    assert str(caught.value).startswith("HERD_NODE_QUIET_HOURS = ")
    assert home.exists()
