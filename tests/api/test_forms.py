"""Forms with a recording: what they ask for, and what an engine gets of them."""

from email import message_from_bytes

import pytest

from ollama_herd.api.endpoints import MEDIA
from ollama_herd.api.errors import ApiError
from ollama_herd.api.forms import (
    FormAsk,
    FormPart,
    SentForm,
    Span,
    engine_form,
    pieces_length,
    read_form,
)

HEAR, OWN = MEDIA[b"/v1/audio/transcriptions"], MEDIA[b"/api/transcribe"]


def part(name, data, filename=""):
    shown = f'form-data; name="{name}"' + (f'; filename="{filename}"' if filename else "")
    return FormPart(name, ((b"Content-Disposition", shown.encode()),), data)


def form(*parts):
    return SentForm((part("model", b"Whisper"), *parts))


FILE = part("file", Span(0, 32_000), "a.wav")


def test_what_is_asked_for():
    assert read_form(HEAR, form(FILE)) == FormAsk("Whisper", work=2)
    more = read_form(HEAR, form(FILE, part("fallback_models", b"a, b")))
    assert more.fallback_models == ("a", "b")


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (SentForm((FILE,)), "model is required"),
        (form(), "file is required"),
        (form(part("file", Span(0, 0), "a.wav")), "the file is empty"),
        (form(FILE, part("response_format", b"doc")), "response_format must be one of"),
    ],
)
def test_what_is_wrong(sent, words):
    refused = read_form(HEAR, sent)
    assert isinstance(refused, ApiError)
    assert refused.status == 400
    assert words in refused.message


def test_an_engine_gets_its_own_name_and_all_else_as_it_came():
    content = b"sound" * 10
    sent = form(part("audio", Span(0, 50), "ü.wav"), part("language", b"de"))
    sent = SentForm((*sent.parts, part("fallback_models", b"x")))
    pieces = engine_form(sent, OWN, "whisper-large", b"edge")
    body = b"".join(
        content[p.start : p.start + p.length] if isinstance(p, Span) else p for p in pieces
    )
    assert len(body) == pieces_length(pieces)
    read = message_from_bytes(b"Content-Type: multipart/form-data; boundary=edge\r\n\r\n" + body)
    fields = {
        one.get_param("name", header="content-disposition"): one.get_payload(decode=True)
        for one in read.get_payload()
    }
    assert fields == {"model": b"whisper-large", "file": content, "language": b"de"}
