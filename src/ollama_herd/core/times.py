"""Times as engines write them: RFC 3339 text with any offset and up to nanoseconds."""

import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9})\d*)?(Z|[+-]\d\d:\d\d)")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

NO_TIME: Final = (-(2**62), 0)
"""Before every time: what cannot be read is oldest."""


@lru_cache(maxsize=4096)
def parse_time(text: str) -> tuple[int, int]:
    """Seconds since 1970 and nanoseconds; `NO_TIME` for what is no time."""
    found = _TIME.fullmatch(text)
    if found is None:
        return NO_TIME
    zone = "+00:00" if found[3] == "Z" else found[3]
    try:
        moment = datetime.fromisoformat(found[1] + zone)
    except ValueError:
        return NO_TIME
    seconds = (moment - _EPOCH).total_seconds()
    return int(seconds), int((found[2] or "0").ljust(9, "0"))
