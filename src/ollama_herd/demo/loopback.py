"""Small blocking requests to servers on this machine: no proxy, no redirects, bounded waits."""

import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

FAILURES = (OSError, http.client.HTTPException, ValueError)
"""All that a request to a server that is not there, or is something else, can end with."""

_MOST_BYTES = 16 << 20


def get_json(url: str, timeout_s: float = 2.0) -> Any:
    """The JSON at `url`. Raises one of FAILURES, ValueError when the status is not 200."""
    with sent("GET", url, None, timeout_s) as response:
        if response.status != 200:
            raise ValueError(f"status {response.status}")
        return json.loads(response.read(_MOST_BYTES))


def post_json(url: str, value: object, timeout_s: float = 2.0) -> Any:
    """As `get_json`, with a JSON body."""
    with sent("POST", url, value, timeout_s) as response:
        if response.status != 200:
            raise ValueError(f"status {response.status}")
        return json.loads(response.read(_MOST_BYTES))


@contextmanager
def sent(
    method: str, url: str, value: object, timeout_s: float
) -> Iterator[http.client.HTTPResponse]:
    """The response, not read yet; `timeout_s` bounds each wait for bytes."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout_s)
    try:
        body = None if value is None else json.dumps(value).encode()
        headers = {} if body is None else {"Content-Type": "application/json"}
        connection.request(method, parts.path or "/", body, headers)
        yield connection.getresponse()
    finally:
        connection.close()
