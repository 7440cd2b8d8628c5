"""What was said, in each of OpenAI's formats. Pure."""

from typing import Any

import msgspec

FORMATS = ("json", "text", "srt", "verbose_json", "vtt")
GRANULARITIES = ("segment", "word")
SEGMENTS = frozenset({"segment"})


class Segment(msgspec.Struct, frozen=True):
    """A part of a recording; times in seconds from its start."""

    start: float
    end: float
    text: str


class Word(msgspec.Struct, frozen=True):
    """A word of a recording; times in seconds from its start."""

    word: str
    start: float
    end: float


class Transcript(msgspec.Struct, frozen=True):
    """All that was said. `duration` is the recording's in seconds, 0 when not known."""

    text: str
    language: str | None = None
    duration: float = 0.0
    segments: tuple[Segment, ...] = ()
    words: tuple[Word, ...] = ()


def rendered(
    said: Transcript, layout: str, granularities: frozenset[str] = SEGMENTS
) -> tuple[str, bytes]:
    """Content type and body of an answer in one of FORMATS; verbose_json has the times of each of
    `granularities` (of GRANULARITIES).
    """
    if layout == "text":
        return "text/plain", f"{said.text.strip()}\n".encode()
    if layout == "srt":
        return "text/plain", "\n".join(map(_srt, _numbered(said))).encode()
    if layout == "vtt":
        cues = "\n".join(_vtt(one) for _, one in _numbered(said))
        return "text/vtt", f"WEBVTT\n\n{cues}".encode()
    body: dict[str, Any] = {"text": said.text}
    if layout == "verbose_json":
        body = {
            "task": "transcribe",
            "language": said.language or "",
            "duration": round(said.duration, 3),
            "text": said.text,
        }
        if "segment" in granularities:
            body["segments"] = [
                {"id": number - 1, "start": s.start, "end": s.end, "text": s.text}
                for number, s in _numbered(said)
            ]
        if "word" in granularities:
            body["words"] = said.words
    return "application/json", msgspec.json.encode(body)


def _numbered(said: Transcript) -> list[tuple[int, Segment]]:
    """The segments from 1 on; all as one where the recogniser tells no times."""
    segments = said.segments
    if not segments and said.text.strip():
        segments = (Segment(0.0, said.duration, said.text),)
    return list(enumerate(segments, 1))


def _srt(numbered: tuple[int, Segment]) -> str:
    number, one = numbered
    times = f"{_clock(one.start, ',')} --> {_clock(one.end, ',')}"
    return f"{number}\n{times}\n{one.text.strip()}\n"


def _vtt(one: Segment) -> str:
    return f"{_clock(one.start, '.')} --> {_clock(one.end, '.')}\n{one.text.strip()}\n"


def _clock(seconds: float, point: str) -> str:
    total_ms = max(0, round(seconds * 1000))
    minutes, rest_ms = divmod(total_ms, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{rest_ms // 1000:02}{point}{rest_ms % 1000:03}"
