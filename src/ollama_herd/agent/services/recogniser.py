"""Writes down speech in a process of its own, which keeps its model in memory between requests.

`python recogniser.py BACKEND MODEL`, run by the Python that has the backend's package, so nothing
of the herd is imported here. A request is a line of JSON on stdin: `path`, and perhaps `language`,
`prompt` and `words`, true when the times of words are wanted. Its answer is one on stdout: `text`,
`language`, `duration`, `segments` (each `start`, `end`, `text`; seconds), perhaps `words` (each
`start`, `end`, `word`), or `error` with a `status` for the client. When stdin ends, so does the
process, whatever it is doing.
"""

import contextlib
import io
import json
import os
import queue
import sys
import threading
import wave
from array import array
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

Answer = dict[str, Any]
Recognise = Callable[[Answer], Answer]

RATE = 16_000
"""Samples a second that speech models are trained on."""


class Unfit(Exception):  # noqa: N818 - an answer to a client, not a defect
    """The recording is none that this backend can read, or more is wanted than it can tell."""


NO_WORD_TIMES = "this recogniser tells no times of words; ask for times of segments"


def mlx_qwen3_asr(model: str) -> Recognise:
    """Qwen3-ASR on Apple silicon (PyPI mlx-qwen3-asr)."""
    session = import_module("mlx_qwen3_asr").Session(model)

    def recognise(asked: Answer) -> Answer:
        if asked.get("words"):
            raise Unfit(NO_WORD_TIMES)
        result = session.transcribe(
            asked["path"],
            context=asked.get("prompt") or "",
            language=asked.get("language") or None,
            return_chunks=True,
        )
        pieces = result.segments or result.chunks or []
        return {"text": result.text, "language": result.language, "segments": pieces}

    return recognise


def qwen_asr(model: str) -> Recognise:
    """Qwen3-ASR with PyTorch (PyPI qwen-asr), on a GPU where there is one."""
    torch = import_module("torch")
    where = {"device_map": "cuda:0", "dtype": torch.bfloat16} if torch.cuda.is_available() else {}
    kind = import_module("qwen_asr").Qwen3ASRModel
    loaded = kind.from_pretrained(model, max_new_tokens=4096, **where)

    def recognise(asked: Answer) -> Answer:
        if asked.get("words"):
            raise Unfit(NO_WORD_TIMES)
        (result,) = loaded.transcribe(
            audio=asked["path"],
            context=asked.get("prompt") or "",
            language=asked.get("language") or None,
        )
        return {"text": result.text, "language": result.language, "segments": []}

    return recognise


def pocketsphinx(_model: str) -> Recognise:
    """A small English recogniser whose model is in its package (PyPI pocketsphinx)."""
    package = import_module("pocketsphinx")
    decoder = package.Decoder(samprate=RATE)

    frames_s = 1.0 / decoder.config["frate"]

    def heard(sound: bytes, from_s: float) -> tuple[str, list[Answer]]:
        decoder.start_utt()
        decoder.process_raw(sound, full_utt=True)
        decoder.end_utt()
        found = decoder.hyp()
        if found is None:
            return "", []
        return found.hypstr, [
            {
                "word": part.word.partition("(")[0],  # the second pronunciation is "word(2)"
                "start": round(from_s + part.start_frame * frames_s, 3),
                "end": round(from_s + (part.end_frame + 1) * frames_s, 3),
            }
            for part in decoder.seg()
            if part.word[0] not in _NO_WORD
        ]

    def recognise(asked: Answer) -> Answer:
        segments: list[Answer] = []
        words: list[Answer] = []
        for part in package.Segmenter(sample_rate=RATE).segment(_Samples(asked["path"])):
            text, its_words = heard(part.pcm, part.start_time)
            if text:
                segments.append({"start": part.start_time, "end": part.end_time, "text": text})
                words += its_words
        text = " ".join(segment["text"] for segment in segments)
        return {"text": text, "language": "english", "segments": segments, "words": words}

    return recognise


_NO_WORD = "<[+"
"""How pocketsphinx's names of silence and noise begin."""

BACKENDS: dict[str, Callable[[str], Recognise]] = {
    "mlx-qwen3-asr": mlx_qwen3_asr,
    "qwen-asr": qwen_asr,
    "pocketsphinx": pocketsphinx,
}


class _Samples(io.RawIOBase):
    """A WAV file as 16-bit samples of one channel at RATE, read as they are asked for."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._source = _resampled(path)
        self._left = b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        while size < 0 or len(self._left) < size:
            piece = next(self._source, None)
            if piece is None:
                break
            self._left += piece
        taken = self._left if size < 0 else self._left[:size]
        self._left = self._left[len(taken) :]
        return taken


def _resampled(path: str) -> Iterator[bytes]:
    with _opened(path) as sound:
        channels, rate = sound.getnchannels(), sound.getframerate()
        if sound.getsampwidth() != 2:
            raise Unfit("only WAV with 16 bits a sample can be read here")
        step, place, before = rate / RATE, 0.0, 0
        while frames := sound.readframes(rate):
            samples = array("h")
            samples.frombytes(frames)
            if sys.byteorder == "big":
                samples.byteswap()
            line = [before, *samples[::channels]]
            out = array("h")
            while place < len(line) - 1:
                left = int(place)
                share = place - left
                out.append(int(line[left] * (1 - share) + line[left + 1] * share))
                place += step
            place -= len(line) - 1
            before = line[-1]
            yield out.tobytes()


def _opened(path: str) -> wave.Wave_read:
    try:
        return wave.Wave_read(path)
    except (wave.Error, EOFError):
        raise Unfit(
            "the file is no WAV recording, and this recogniser reads no other; convert it, or "
            "install Qwen3-ASR on a node"
        ) from None


def duration_s(path: str) -> float:
    """How long a WAV file is; 0 for any other."""
    try:
        with wave.open(path) as sound:
            return float(sound.getnframes() / sound.getframerate())
    except (wave.Error, EOFError, OSError, ZeroDivisionError):
        return 0.0


def answered(recognise: Recognise, line: str) -> Answer:
    """The answer to one request; never raises."""
    try:
        asked = json.loads(line)
        answer = recognise(asked)
        segments = [
            {"start": float(s["start"]), "end": float(s["end"]), "text": str(s["text"])}
            for s in answer["segments"]
        ]
        last_s = max((float(s["end"]) for s in answer["segments"]), default=0.0)
        length_s = duration_s(asked["path"]) or last_s
    except Unfit as unfit:
        return {"error": str(unfit), "status": 400}
    except Exception as failure:  # noqa: BLE001 - whatever a library raises is the answer
        kind = type(failure).__name__
        return {"error": f"{kind}: {failure}", "status": 400 if kind in _NOT_AUDIO else 500}
    return {**answer, "segments": segments, "duration": length_s}


_NOT_AUDIO = frozenset({"LibsndfileError", "NoBackendError", "AudioLoadError", "ValueError"})
"""What libraries raise for a file that is no sound, or a language that they do not know."""


def main() -> int:
    """Answer requests until stdin ends."""
    backend, model = sys.argv[1:3]
    here = Path(__file__).parent
    sys.path[:] = [
        place for place in sys.path if Path(place) != here
    ]  # its neighbours are no packages
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_listen, args=(lines,), daemon=True).start()
    said = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    with contextlib.redirect_stdout(sys.stderr):
        recognise = BACKENDS[backend](model)
        while True:
            said.write(json.dumps(answered(recognise, lines.get())) + "\n")
            said.flush()


def _listen(lines: "queue.Queue[str]") -> None:
    for line in sys.stdin:
        lines.put(line)
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
