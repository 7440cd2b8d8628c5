"""Unpacks zstd request bodies, which Ollama takes on `/v1` (server/cloud_proxy.go).

The standard library has zstd from Python 3.14 on; before it, `backports.zstd` is the same module.
"""

import importlib
import sys
from functools import cache
from types import ModuleType

from ollama_herd.api.errors import ApiError, bad_body

MAX_UNPACKED_BYTES = 20 << 20
"""Ollama's limit of an unpacked body."""

MAX_WINDOW_LOG = 23
"""8 MiB of window, the memory that Ollama allows its decoder."""

IN_STDLIB = sys.version_info >= (3, 14)


def unpack_zstd(packed: bytes, limit_bytes: int = MAX_UNPACKED_BYTES) -> bytes | ApiError:
    """The unpacked body, or why there is none. Never more than `limit_bytes` are unpacked."""
    zstd = _zstd()
    if zstd is None:
        return bad_body(
            "this herd cannot read zstd bodies: send the request without Content-Encoding, or "
            "install the Python package 'backports.zstd' beside the herd"
        )
    options = {zstd.DecompressionParameter.window_log_max: MAX_WINDOW_LOG}
    decompressor = zstd.ZstdDecompressor(options=options)
    try:
        plain: bytes = decompressor.decompress(packed, max_length=limit_bytes + 1)
    except zstd.ZstdError as problem:
        return bad_body(f"cannot unpack the zstd body: {problem}")
    if len(plain) > limit_bytes:
        return ApiError(400, "http: request body too large", "body_too_large", at_door=True)
    if not decompressor.eof:
        return bad_body("unexpected EOF")
    return plain


@cache
def _zstd() -> ModuleType | None:
    try:
        return importlib.import_module("compression.zstd" if IN_STDLIB else "backports.zstd")
    except ImportError:
        return None
