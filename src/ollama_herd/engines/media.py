"""Image and transcription servers that speak OpenAI's API: stable-diffusion.cpp, LocalAI,
Speaches, whisper.cpp and others.

What such a server is for is known from the settings, since few of them say it.
"""

import msgspec

from ollama_herd.core.abilities import IMAGE, TRANSCRIPTION
from ollama_herd.core.node import EngineKind, Model, Name
from ollama_herd.core.request import Kind
from ollama_herd.engines.openai import refuse_if_locked
from ollama_herd.engines.probe import EngineFailure, EngineHttp, Findings, decode_each, expect

ONE_AT_A_TIME = 1
"""These servers work on one request after the other; more would only wait there."""

_CAPABILITY = {Kind.IMAGE: IMAGE, Kind.SPEECH: TRANSCRIPTION}
_TASKS = {Kind.IMAGE: "text-to-image", Kind.SPEECH: "automatic-speech-recognition"}
"""Speaches lists speech synthesis beside recognition, and tells them apart in `task`."""


class _Entry(msgspec.Struct):
    id: Name
    task: str = ""


class _Models(msgspec.Struct):
    data: list[msgspec.Raw]


class Purpose(msgspec.Struct, frozen=True):
    """What a server is for. `names` are its models', none when it lists them itself."""

    kind: Kind
    names: tuple[str, ...] = ()


class MediaProbe:
    """Looks at one such server."""

    kind = EngineKind.OPENAI

    def __init__(self, http: EngineHttp, purpose: Purpose) -> None:
        self._http = http
        self._purpose = purpose

    async def look(self, *, thorough: bool) -> Findings:  # noqa: ARG002 - it asks for one thing
        names = self._purpose.names
        answer = await self._http.get("/v1/models")
        refuse_if_locked(answer, self._http.netloc)
        if answer.status == 503:
            raise EngineFailure(f"{self._http.netloc} is loading its model")
        if not names and answer.status != 200:
            raise EngineFailure(
                f"{self._http.netloc} lists no models ({answer.status}); "
                f"name its model: --{self._purpose.kind}-engine NAME=http://{self._http.netloc}"
            )
        if not names:
            listed = expect(answer, "/v1/models", _Models, self._http.netloc)
            entries = decode_each(listed.data, _Entry)
            wanted = ("", _TASKS[self._purpose.kind])
            names = tuple(entry.id for entry in entries if entry.task in wanted)
        capabilities = (_CAPABILITY[self._purpose.kind],)
        return Findings(
            models=tuple(Model(name=name, capabilities=capabilities) for name in names),
            slots=ONE_AT_A_TIME,
        )

    async def close(self) -> None:
        return
