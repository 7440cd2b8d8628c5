"""Nothing that was made from a prompt is kept: not even the hashes that routing needs."""

from ollama_herd.core.request import Dialect, InferenceRequest, Kind
from ollama_herd.core.trace import Trace
from ollama_herd.store.rows import row_of

BLOCK = 1234567890123456789


def test_the_hashes_of_a_prompt_are_not_stored() -> None:
    request = InferenceRequest(
        request_id="r1",
        model="m",
        model_key="m:latest",
        kind=Kind.CHAT,
        dialect=Dialect.OLLAMA,
        path="/api/chat",
        arrived_s=0.0,
        prompt_tokens=987654,
        prefix=(BLOCK, BLOCK + 1),
    )
    trace = Trace(request, 0.0, 1.0, 0.0, 1.0, 200, "", None, (), None)
    row = str(row_of(trace))
    assert "987654" in row
    assert str(BLOCK)[:10] not in row
