"""The engines for faults and probes: fake Ollamas that also answer a router's health check."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tests.fakes.models import FakeModel, embedding_model, model
from tests.fakes.ollama import FakeOllama
from tests.fakes.state import Settings
from tests.fakes.wire import Reply, Request

import engine_api
import wire

ANSWER_TOKENS = 12


class Engine(FakeOllama):
    """As Ollama, and with the `/health` of an engine that routers of other engines ask for."""

    async def _answer(self, request: Request, reply: Reply) -> None:
        if request.path == "/health":
            await reply.send(200, b"{}")
        else:
            await super()._answer(request, reply)

    @property
    def inferences(self) -> int:
        """Requests for an answer that have reached it."""
        return self.counters.received


def chat_model(name: str = wire.MODEL) -> FakeModel:
    """As the heartbeats describe it."""
    return model(
        name,
        digest=engine_api.MODEL["digest"],
        size_bytes=engine_api.MODEL["size"],
        modified_at=engine_api.MODEL["modified_at"],
        capabilities=tuple(engine_api.MODEL["capabilities"]),
        family="llama",
        parameter_size="3.2B",
    )


@contextmanager
def pair(names: Sequence[str] = (wire.MODEL,)) -> Iterator[tuple[Engine, Engine]]:
    """Two engines that answer the same question with the same bytes."""
    settings = {
        "is_frozen": True,
        "num_parallel": 64,
        "max_loaded": 1000,
        "answer_tokens": ANSWER_TOKENS,
    }
    models = [*(chat_model(name) for name in names), embedding_model("embed")]
    first, second = Engine(models, Settings(**settings)), Engine(models, Settings(**settings))
    with first.in_thread(), second.in_thread():
        yield first, second
