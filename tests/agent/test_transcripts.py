"""What was said, in each of OpenAI's formats."""

import json

import pytest

from ollama_herd.agent.services.transcripts import FORMATS, Segment, Transcript, Word, rendered

SAID = Transcript(
    text=" Hello there. Good bye.",
    language="english",
    duration=3725.5,
    segments=(Segment(0.0, 1.25, " Hello there."), Segment(3723.0049, 3725.5, "Good bye.")),
)

EXPECTED = {
    "json": '{"text":" Hello there. Good bye."}',
    "text": "Hello there. Good bye.\n",
    "srt": (
        "1\n00:00:00,000 --> 00:00:01,250\nHello there.\n\n"
        "2\n01:02:03,005 --> 01:02:05,500\nGood bye.\n"
    ),
    "vtt": (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.250\nHello there.\n\n"
        "01:02:03.005 --> 01:02:05.500\nGood bye.\n"
    ),
}


@pytest.mark.parametrize("layout", sorted(EXPECTED))
def test_formats(layout: str) -> None:
    assert rendered(SAID, layout)[1].decode() == EXPECTED[layout]


def test_verbose() -> None:
    content_type, body = rendered(SAID, "verbose_json")
    told = json.loads(body)
    assert content_type == "application/json"
    assert (told["task"], told["language"], told["duration"]) == ("transcribe", "english", 3725.5)
    assert told["segments"][0] == {"id": 0, "start": 0.0, "end": 1.25, "text": " Hello there."}


def test_times_of_words() -> None:
    said = Transcript("Good bye.", words=(Word("Good", 0.5, 0.75), Word("bye", 0.75, 1.5)))
    words = [
        {"word": "Good", "start": 0.5, "end": 0.75},
        {"word": "bye", "start": 0.75, "end": 1.5},
    ]
    told = json.loads(rendered(said, "verbose_json", frozenset({"word"}))[1])
    assert told["words"] == words
    assert "segments" not in told
    told = json.loads(rendered(said, "verbose_json", frozenset({"word", "segment"}))[1])
    assert (told["words"], len(told["segments"])) == (words, 1)
    assert "words" not in json.loads(rendered(said, "verbose_json")[1])


def test_without_times_all_is_one_segment() -> None:
    said = Transcript("Hello.", None, 2.0)
    assert rendered(said, "srt")[1].decode() == "1\n00:00:00,000 --> 00:00:02,000\nHello.\n"


@pytest.mark.parametrize("layout", FORMATS)
def test_silence(layout: str) -> None:
    _, body = rendered(Transcript(""), layout)
    assert "-->" not in body.decode()
