"""Small requests that want to become large, and paths that want to be elsewhere."""

import gzip
import json
import os
import zlib

import pytest

from tests.fakes.raw import Client
from tests.security.conftest import CHAT, Target

try:
    from compression import zstd
except ImportError:
    from backports import zstd

ALLOWED_BYTES = 400 * 2**20
"""Of memory, for a router that has been bombed: the limit of a body is 256 MB."""


def bombed(target: Target, path: str, body: bytes, encoding: str) -> int:
    with Client(target.herd.port, timeout_s=60) as client:
        client.ask("POST", path, body, {"Content-Encoding": encoding})
        status = client.read().status
    assert target.herd.rss_bytes() < ALLOWED_BYTES
    assert target.is_well()
    return status


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions", "/v1/messages"])
@pytest.mark.parametrize("encoding", ["zstd", "gzip", "deflate"])
def test_decompression_bombs(target: Target, path: str, encoding: str) -> None:
    """2 GB of blanks in some kilobytes; chunks of the same, so that making them costs little."""
    blank = b" " * (16 * 2**20)
    if encoding == "zstd":
        body = zstd.compress(blank) * 128
    elif encoding == "gzip":
        body = gzip.compress(blank) * 128
    else:
        packer = zlib.compressobj()
        body = b"".join(packer.compress(blank) for _ in range(128)) + packer.flush()
    assert bombed(target, path, body, encoding) in (400, 413, 415)


def test_an_honest_zstd_body_is_read(target: Target) -> None:
    body = zstd.compress(json.dumps(CHAT).encode())
    assert bombed(target, "/v1/chat/completions", body, "zstd") == 200


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 1_000_000,
        b'{"a":' * 1_000_000,
        b'{"model":"tiny","messages":' + b"[" * 500_000 + b"]" * 500_000 + b"}",
        b'{"model":"tiny","messages":[' + b'{"role":"user","content":"x"},' * 100_000 + b"{}]}",
        b'{"model":"' + b"\\u0041" * 1_000_000 + b'"}',
        b'{"model":"tiny","messages":[],"options":{"num_ctx":' + b"9" * 1_000_000 + b"}}",
        b'{"model":"tiny","x":1e' + b"9" * 1_000_000 + b"}",
        b'{"model":"' + b"a/" * 500_000 + b'"}',
        b'{"model":"' + b":" * 1_000_000 + b'"}',
        b'{"model":"tiny","prompt":"' + b"\xf0\x9f\x98" * 300_000 + b'"}',
    ],
    ids=[
        "arrays",
        "objects",
        "closed",
        "messages",
        "escapes",
        "digits",
        "power",
        "slashes",
        "colons",
        "half characters",
    ],
)
@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions", "/api/show", "/api/create"])
def test_deep_and_long_json(target: Target, path: str, body: bytes) -> None:
    with Client(target.herd.port, timeout_s=30) as client:
        client.ask("POST", path, body)
        assert client.read().status < 600
    assert target.herd.rss_bytes() < ALLOWED_BYTES
    assert target.is_well()


DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    "digest",
    [
        "../../../../etc/passwd",
        "..%2f..%2fetc%2fpasswd",
        "%2e%2e%2f%2e%2e%2fetc",
        "sha256:../../x",
        "sha256-" + "0" * 63 + "/",
        "sha256:" + "0" * 63 + "%00",
        "sha256:" + "g" * 64,
        "\\..\\..\\windows",
        "%5c..%5c",
    ],
)
@pytest.mark.parametrize("method", ["POST", "HEAD"])
def test_blobs_are_named_by_digests_only(target: Target, method: str, digest: str) -> None:
    before = target.engine.counters.received
    answer = target.call(method, f"/api/blobs/{digest}", b"x" if method == "POST" else None)
    assert answer.status in (301, 307, 400, 404, 405)
    assert target.engine.counters.received == before


@pytest.mark.parametrize(
    "name",
    [
        "../index.html",
        "..%2findex.html",
        "..%2f..%2f..%2f..%2f..%2fetc%2fpasswd",
        "%2e%2e/%2e%2e/pyproject.toml",
        "..\\..\\index.html",
        "%2fetc%2fpasswd",
        "....//....//etc/passwd",
        "a%00.js",
        ".",
        "%ff",
    ],
)
@pytest.mark.parametrize("base", ["/dashboard/assets/", "/v1/images/files/", "/dashboard/"])
def test_no_file_but_the_pages(target: Target, base: str, name: str) -> None:
    with Client(target.herd.port, timeout_s=10) as client:
        client.send(f"GET {base}{name} HTTP/1.1\r\nHost: x\r\n\r\n".encode("latin-1"))
        answer = client.read()
    assert answer.status in (301, 307, 400, 404), answer.body[:200]
    assert b"root:" not in answer.body
    assert str(os.getpid()).encode() not in answer.body


def test_regular_expressions_end(target: Target) -> None:
    """Names made to let a pattern try for ever; the timeout of the test is the proof."""
    for name in (
        "a" * 50_000 + "!",
        "a/" * 5_000 + "!",
        "a:" * 5_000,
        "-" * 50_000,
        "h://" * 9_000,
    ):
        for path in ("/api/chat", "/api/show", "/v1/chat/completions"):
            assert target.call("POST", path, {**CHAT, "model": name}).status in (400, 404)
        assert target.call("GET", f"/v1/models/{name[:3000]}").status in (301, 307, 400, 404)
