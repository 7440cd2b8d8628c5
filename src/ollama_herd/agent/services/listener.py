"""Writes down recordings by a recogniser process that stays warm, one recording at a time."""

import asyncio
import importlib.util
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from ollama_herd.agent.services.process import KEPT_CHARS, end
from ollama_herd.agent.services.recipes import reason
from ollama_herd.agent.services.transcripts import Transcript
from ollama_herd.agent.services.weights import cache_folder, find_command, weights_bytes
from ollama_herd.clock import monotonic_s
from ollama_herd.core.abilities import TRANSCRIPTION
from ollama_herd.core.node import Model, ModelDetails
from ollama_herd.tasks import cancel_and_wait, spawn

IDLE_S: Final = 600.0
"""A recogniser that nobody asks for so long gives its memory back."""

MAX_LINE_BYTES: Final = 32 * 2**20
"""A day of speech with its segments is a few MB."""

_PROGRAM: Final = Path(__file__).with_name("recogniser.py")
_OFFLINE: Final = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONUTF8": "1"}


class Backend(msgspec.Struct, frozen=True):
    """A package that recognises speech; `command` is one that it installs."""

    name: str
    command: str


class Voice(msgspec.Struct, frozen=True):
    """A model: who runs it, by which Python, and what that calls it."""

    name: str
    backend: str
    python: str
    model: str


BACKENDS: Final = (
    Backend("mlx-qwen3-asr", "mlx-qwen3-asr"),
    Backend("qwen-asr", "qwen-asr-demo"),
)
"""The better one for a machine that has both comes first."""

WEIGHTS: Final = {
    "qwen3-asr-0.6b": "Qwen/Qwen3-ASR-0.6B",
    "qwen3-asr-1.7b": "Qwen/Qwen3-ASR-1.7B",
}

_INTERPRETER = re.compile(r"(/[^\s'\"]*python[^\s'\"]*)")


class ListeningFailed(Exception):  # noqa: N818 - an answer to a client, not a defect
    """Nothing was written down. `status` is for the client, the text says why."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Listener:
    """The recognisers of this machine, and the one process that is warm."""

    def __init__(self, within_s: float, environment: Mapping[str, str]) -> None:
        self._within_s = within_s
        self._environment = environment
        self._device = asyncio.Lock()
        self._voices: dict[str, Voice] = {}
        self._warm: tuple[Voice, _Process] | None = None
        self._used_s = 0.0
        self._resting: asyncio.Task[None] | None = None
        self.is_installed = False
        self.doing = ""  # the model under way

    def look(self) -> tuple[Model, ...]:
        """What can be recognised here: reads the disk, so call it in a thread."""
        environment = self._environment
        cache = cache_folder(environment)
        voices, models = {}, []
        backend, python = self._backend()
        self.is_installed = bool(backend)
        for name, repository in WEIGHTS.items() if backend else ():
            size = weights_bytes(cache, repository)
            if size:
                voices[name] = Voice(name, backend, python, repository)
                models.append(_model(name, size, backend))
        if importlib.util.find_spec("pocketsphinx") is not None:
            voices["pocketsphinx"] = Voice("pocketsphinx", "pocketsphinx", sys.executable, "")
            models.append(_model("pocketsphinx", 0, "pocketsphinx"))
        self._voices = voices
        return tuple(models)

    def _backend(self) -> tuple[str, str]:
        for backend in BACKENDS:
            command = find_command(backend.command, self._environment)
            python = _python_of(command) if command is not None else ""
            if python:
                return backend.name, python
        return "", ""

    async def write_down(self, model: str, asked: Mapping[str, object]) -> Transcript:
        """What is said in the file `asked["path"]`. Raises ListeningFailed; waits for its turn."""
        voice = self._voices.get(model)
        if voice is None:
            raise ListeningFailed(404, f"model '{model}' is not on this machine")
        async with self._device:
            self.doing = f"{model}: listens"
            try:
                process = await self._process(voice)
                async with asyncio.timeout(self._within_s):
                    return await process.ask(asked)
            except TimeoutError:
                await self._end()
                why = f"{voice.backend} took longer than {self._within_s:g} s and was ended"
                raise ListeningFailed(504, why) from None
            except ListeningFailed:
                if self._warm is not None and self._warm[1].has_ended:
                    await self._end()
                raise
            except asyncio.CancelledError:
                await self._end()  # it cannot be told to stop: the next one loads anew
                raise
            finally:
                self._used_s = monotonic_s()
                self.doing = ""

    async def _process(self, voice: Voice) -> "_Process":
        if self._warm is not None and self._warm[0] == voice and not self._warm[1].has_ended:
            return self._warm[1]
        await self._end()
        try:
            process = await _Process.start(voice, {**self._environment, **_OFFLINE})
        except OSError as error:
            why = error.strerror or type(error).__name__
            raise ListeningFailed(500, f"{voice.backend} cannot be started: {why}") from None
        self._warm = (voice, process)
        self._used_s = monotonic_s()
        if self._resting is None or self._resting.done():
            self._resting = spawn(self._rest(), name="idle recogniser")
        return process

    async def _rest(self) -> None:
        """Ends the process when nobody has needed it for a while."""
        while self._warm is not None:
            await asyncio.sleep(max(1.0, self._used_s + IDLE_S - monotonic_s()))
            async with self._device:
                if monotonic_s() - self._used_s >= IDLE_S:
                    await self._end()

    async def _end(self) -> None:
        if self._warm is not None:
            process = self._warm[1]
            self._warm = None
            await process.end()

    async def close(self) -> None:
        await cancel_and_wait(self._resting)
        await self._end()


class _Failed(msgspec.Struct, frozen=True):
    error: str
    status: int


class _Process:
    def __init__(self, voice: Voice, process: asyncio.subprocess.Process) -> None:
        self._voice = voice
        self._process = process
        self._printed = ""
        self._is_broken = False
        self._hearing = spawn(self._hear(), name="recogniser")

    @classmethod
    async def start(cls, voice: Voice, environment: Mapping[str, str]) -> "_Process":
        process = await asyncio.create_subprocess_exec(
            voice.python,
            str(_PROGRAM),
            voice.backend,
            voice.model,
            env=dict(environment),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=MAX_LINE_BYTES,
            start_new_session=os.name == "posix",
        )
        return cls(voice, process)

    @property
    def has_ended(self) -> bool:
        return self._is_broken or self._process.returncode is not None

    async def ask(self, asked: Mapping[str, object]) -> Transcript:
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise AssertionError("both are pipes")
        try:
            stdin.write(msgspec.json.encode(asked) + b"\n")
            await stdin.drain()
            line = await stdout.readline()
        except (ConnectionError, ValueError):
            line = b""
        if not line:
            self._is_broken = True
            await asyncio.wait([self._hearing])
            why = reason(self._printed) or "it ended without a word"
            raise ListeningFailed(500, f"{self._voice.backend} failed: {why}")
        try:
            answer = msgspec.json.decode(line, type=dict[str, object])
            if "error" not in answer:
                return msgspec.convert(answer, Transcript)
            failed = msgspec.convert(answer, _Failed)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            why = f"{self._voice.backend} answered in no known form"
            raise ListeningFailed(500, why) from None
        raise ListeningFailed(failed.status, f"{self._voice.backend}: {failed.error}")

    async def _hear(self) -> None:
        stderr = self._process.stderr
        while stderr is not None and (data := await stderr.read(4096)):
            self._printed = (self._printed + data.decode("utf-8", "replace"))[-KEPT_CHARS:]

    async def end(self) -> None:
        await end(self._process)
        await cancel_and_wait(self._hearing)


def _model(name: str, size: int, backend: str) -> Model:
    details = ModelDetails(format=backend)
    return Model(name=name, size_bytes=size, details=details, capabilities=(TRANSCRIPTION,))


def _python_of(command: Path) -> str:
    """The interpreter of a command that pip, pipx or uv made, from its first lines."""
    try:
        with command.open("rb") as script:
            head = script.read(1024).decode("utf-8", "replace")
    except OSError:
        return ""
    lines = head.splitlines()[:2]
    if not lines or not lines[0].startswith("#!"):
        return ""
    found = _INTERPRETER.search("\n".join(lines))
    return found[1] if found else ""
