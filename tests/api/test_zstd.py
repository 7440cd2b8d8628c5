"""zstd bodies, which Ollama takes on `/v1` only."""

import pytest

from ollama_herd.api import zstd
from ollama_herd.api.endpoints import INFERENCE
from ollama_herd.api.errors import ApiError
from ollama_herd.api.parse import ParsedBody, read_request

RESPONSES = INFERENCE[b"/v1/responses"]

_zstd = pytest.importorskip("compression.zstd" if zstd.IN_STDLIB else "backports.zstd")


def test_zstd_bodies_of_v1_are_unpacked() -> None:
    plain = b'{"model":"m","input":"hello"}'
    request = read_request(RESPONSES, _zstd.compress(plain), "zstd")
    assert isinstance(request, ParsedBody)
    assert (request.body, request.unpacked, request.model) == (plain, True, "m")


def test_zstd_elsewhere_is_garbage_as_for_ollama() -> None:
    packed = _zstd.compress(b'{"model":"m"}')
    error = read_request(INFERENCE[b"/api/chat"], packed, "zstd")
    assert isinstance(error, ApiError)
    assert error.message == "invalid character '(' looking for beginning of value"


def test_a_zstd_bomb_is_not_unpacked() -> None:
    packed = _zstd.compress(b" " * (zstd.MAX_UNPACKED_BYTES + 1))
    error = read_request(RESPONSES, packed, "zstd")
    assert isinstance(error, ApiError)
    assert (error.status, error.message) == (400, "http: request body too large")


@pytest.mark.parametrize("cut", [0, 3, 10])
def test_a_broken_zstd_body_is_refused(cut: int) -> None:
    packed = _zstd.compress(b'{"model":"m","input":"hello hello hello"}')
    for broken in (packed[:cut], b"x" + packed):
        error = read_request(RESPONSES, broken, "zstd")
        assert isinstance(error, ApiError)
        assert error.status == 400
