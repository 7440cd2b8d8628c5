"""The built pages: read once from `static/`, served from memory under a strict policy."""

import hashlib
import mimetypes
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import msgspec

STATIC = Path(__file__).parent / "static"
"""Where `make web` and the package build write; not in the repository."""

INDEX = "index.html"
LOGIN_PAGE = "login.html"

SECURITY_HEADERS: Mapping[str, str] = MappingProxyType(
    {
        "Content-Security-Policy": (
            "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
            "object-src 'none'"
        ),
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "same-origin",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
    }
)
"""On every answer below /dashboard: no inline script or style, nothing from another host, in no
one's frame."""

NOT_BUILT = """\
The dashboard's pages are not part of this installation: they are built from web/ when a package is
built, and this herd runs from a source tree in which that has not happened yet.

    make web              builds them (downloads build tools from the npm registry, once)
    pip install .         does the same on the way

Then start the herd again. Everything else works without: /fleet/status, /fleet/queue and
/dashboard/api/fleet show the fleet as JSON.
"""


class Asset(msgspec.Struct, frozen=True):
    """One file as it is sent. `is_hashed`: its name changes with its content."""

    body: bytes
    content_type: str
    etag: str
    is_hashed: bool


def load(folder: Path = STATIC) -> Mapping[str, Asset]:
    """All files by their path below `folder`; empty when nothing was built. Blocks."""
    if not (folder / INDEX).is_file():
        return {}
    return {
        path.relative_to(folder).as_posix(): _asset(path, folder)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _asset(path: Path, folder: Path) -> Asset:
    body = path.read_bytes()
    kind = _TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0]
    return Asset(
        body=body,
        content_type=kind or "application/octet-stream",
        etag=f'"{hashlib.sha256(body).hexdigest()[:20]}"',
        is_hashed=path.parent != folder,
    )


_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
}
"""Not left to the machine: on Windows the registry may call JavaScript text/plain."""
