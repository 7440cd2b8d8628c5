"""Multipart forms with a file: what was sent, what of it counts, and the form an engine gets.

The files' bytes are not here: the content of a form is wherever the caller keeps it, one file after
the other. An engine gets the same fields and files in the same order, framed anew, and its own name
for the model.
"""

from collections.abc import Iterator
from typing import Final

import msgspec

from ollama_herd.api.endpoints import Endpoint
from ollama_herd.api.errors import ApiError
from ollama_herd.core.request import Dialect, Kind

MAX_PARTS: Final = 100
MAX_FIELD_BYTES: Final = 1024 * 1024
"""Of all fields that are no files: prompts and lists of words, never a recording."""

BYTES_PER_UNIT: Final = 16_000
"""A second of sound at 128 kbit/s; what is packed otherwise is learned as slower or faster."""

RESPONSE_FORMATS: Final = ("json", "text", "srt", "verbose_json", "vtt")
_OTHER_FORMATS: Final = ("diarized_json",)
_FILE_FIELDS: Final = ("file", "audio")
_FOR_US: Final = frozenset({"fallback_models"})


class Span(msgspec.Struct, frozen=True):
    """Bytes of a form's content."""

    start: int
    length: int


class FormPart(msgspec.Struct, frozen=True):
    """One part. `data` are the bytes of a field, or where in the content those of a file are."""

    name: str
    headers: tuple[tuple[bytes, bytes], ...]
    data: bytes | Span


class SentForm(msgspec.Struct, frozen=True):
    """A form as it was sent, all of it."""

    parts: tuple[FormPart, ...]

    def field(self, name: str) -> str | None:
        """The last field of that name, as text."""
        for part in reversed(self.parts):
            if part.name == name and isinstance(part.data, bytes):
                return part.data.decode("utf-8", "replace")
        return None

    def file_bytes(self) -> int | None:
        """How long all files are together; None without one."""
        lengths = [part.data.length for part in self.parts if isinstance(part.data, Span)]
        return sum(lengths) if lengths else None


class FormAsk(msgspec.Struct, frozen=True):
    """What a form asks for. `work` as in `core.request.InferenceRequest`."""

    model: str
    work: int
    fallback_models: tuple[str, ...] = ()


def read_form(endpoint: Endpoint, form: SentForm) -> FormAsk | ApiError:
    """The model asked for, or what is missing."""
    model = (form.field("model") or "").strip()
    if not model:
        return _refused("model is required: a form field of that name; GET /v1/models lists them")
    length = form.file_bytes()
    if length is None:
        if endpoint.kind is Kind.IMAGE:
            return _refused("image is required: a form field with the picture to change")
        names = "file" if endpoint.dialect is Dialect.OPENAI else "file or audio"
        return _refused(f"file is required: a form field named {names} with the recording")
    if length == 0:
        return _refused("the file is empty")
    if endpoint.kind is Kind.SPEECH:
        wanted = form.field("response_format")
        if wanted and wanted not in RESPONSE_FORMATS + _OTHER_FORMATS:
            return _refused(f"response_format must be one of {', '.join(RESPONSE_FORMATS)}")
    fallbacks = form.field("fallback_models") or ""
    return FormAsk(
        model=model,
        work=max(1, length // BYTES_PER_UNIT),
        fallback_models=tuple(name.strip() for name in fallbacks.split(",") if name.strip()),
    )


def _refused(message: str) -> ApiError:
    return ApiError(400, message, "bad_body")


def engine_form(
    form: SentForm, endpoint: Endpoint, model: str, boundary: bytes
) -> list[bytes | Span]:
    """The form for an engine that calls its model `model`, in pieces."""
    pieces: list[bytes | Span] = []
    gap = b"--" + boundary + b"\r\n"
    for part in _parts(form, endpoint, model):
        lines = b"".join(name + b": " + value + b"\r\n" for name, value in part.headers)
        pieces += [gap + lines + b"\r\n", part.data]
        gap = b"\r\n--" + boundary + b"\r\n"
    pieces.append(b"\r\n--" + boundary + b"--\r\n")
    return pieces


def pieces_length(pieces: list[bytes | Span]) -> int:
    return sum(piece.length if isinstance(piece, Span) else len(piece) for piece in pieces)


def _parts(form: SentForm, endpoint: Endpoint, model: str) -> Iterator[FormPart]:
    for part in form.parts:
        if part.name in _FOR_US:
            continue
        if part.name == "model" and isinstance(part.data, bytes):
            yield FormPart("model", part.headers, model.encode())
        elif part.name in _FILE_FIELDS and endpoint.kind is Kind.SPEECH:
            yield FormPart("file", _named_file(part.headers), part.data)
        else:
            yield part


def _named_file(headers: tuple[tuple[bytes, bytes], ...]) -> tuple[tuple[bytes, bytes], ...]:
    """`audio` is what our own path calls the field that OpenAI calls `file`."""
    return tuple(
        (name, value.replace(b'name="audio"', b'name="file"', 1))
        if name.lower() == b"content-disposition"
        else (name, value)
        for name, value in headers
    )
