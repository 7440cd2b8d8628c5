"""Quiet hours: at which times of the week a machine is to take no new requests. Pure.

A range belongs to the day on which it begins: `fri 22:00-07:00` ends on Saturday morning.
"""

import re
from collections.abc import Iterable, Sequence

_DAY_MINUTES = 24 * 60
WEEK_MINUTES = 7 * _DAY_MINUTES

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_TIME = r"(\d{1,2}):(\d{2})"
_RANGE = re.compile(rf"(?:([a-z]+)(?:-([a-z]+))? +)?{_TIME} ?- ?{_TIME}")
_EXAMPLES = "write 22:00-07:00, mon-fri 22:00-07:00 or sat 23:30-10:00"

Ranges = Sequence[tuple[int, int]]
"""First minute of the week (0 is Monday's midnight), and the minute after the last, which may be
one of the week after."""


def as_quiet_hours(value: object) -> object:
    """One text with commas (a variable, a flag), or a list (flags, file): a tuple of ranges, each
    checked. Raises ValueError with what is wrong.
    """
    if isinstance(value, str):
        value = value.replace(";", ",").split(",")
    if not (isinstance(value, Sequence) and all(isinstance(item, str) for item in value)):
        return value
    texts = [" ".join(item.lower().split()) for item in value if item.strip()]
    if quiet_for_min(parse_quiet_hours(texts), 0) is None:
        raise ValueError(
            "they cover the whole week; to keep a node out until you say otherwise, use "
            "'herd nodes drain NODE'"
        )
    return tuple(dict.fromkeys(texts))


def parse_quiet_hours(texts: Iterable[str]) -> Ranges:
    """All ranges of a week, sorted. Raises ValueError."""
    return sorted({span for text in texts for span in _spans(text)})


def quiet_for_min(ranges: Ranges, minute: int) -> int | None:
    """Minutes from this minute of the week until no range holds any more: 0 outside of all, None
    when there is always one.
    """
    end = minute
    while end < minute + WEEK_MINUTES:
        after = end
        for first, last in ranges:
            into = (end - first) % WEEK_MINUTES
            after = max(after, end + last - first - into)
        if after == end:
            return end - minute
        end = after
    return None


def until_text(ranges: Ranges, minute: int) -> str:
    """When the quiet hours that hold at this minute of the week end, as its machine's clock will
    show: `07:00`, `mon 07:00` when that is more than a day away. "" outside of quiet hours.
    """
    left = quiet_for_min(ranges, minute)
    if not left:
        return ""
    day, of_day = divmod((minute + left) % WEEK_MINUTES, _DAY_MINUTES)
    time = f"{of_day // 60:02}:{of_day % 60:02}"
    return time if left < _DAY_MINUTES else f"{_DAYS[day]} {time}"


def _spans(text: str) -> Iterable[tuple[int, int]]:
    found = _RANGE.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no range of hours: {_EXAMPLES}")
    begin = _minute(text, found[3], found[4])
    end = _minute(text, found[5], found[6])
    if begin in {end, _DAY_MINUTES}:
        raise ValueError(f"{text!r} begins where it ends; a whole day is 00:00-24:00")
    length = (end - begin) % _DAY_MINUTES or _DAY_MINUTES
    first = _day(text, found[1] or "mon")
    last = _day(text, found[2] or found[1] or "sun")
    for number in range((last - first) % 7 + 1):
        start = (first + number) % 7 * _DAY_MINUTES + begin
        yield start, start + length


def _minute(text: str, hour: str, minute: str) -> int:
    of_day = int(hour) * 60 + int(minute)
    if int(minute) > 59 or of_day > _DAY_MINUTES:
        raise ValueError(f"{text!r} names no time of a day: {hour}:{minute}")
    return of_day


def _day(text: str, name: str) -> int:
    for number, short in enumerate(_DAYS):
        if len(name) >= 3 and _LONG[number].startswith(name) and name.startswith(short):
            return number
    raise ValueError(f"{text!r} names no day of the week: {name}; days are {', '.join(_DAYS)}")


_LONG = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
