"""One prompt through the herd, as any Ollama client would send it."""

import json
from collections.abc import Callable
from typing import NamedTuple

from ollama_herd.clock import monotonic_s
from ollama_herd.demo.loopback import FAILURES, sent

PROMPT = "Explain in two sentences why the sky is blue."

_MOST_TOKENS = 200
_SILENCE_S = 300.0
"""A large model on a slow disk takes minutes to load."""


class ChatError(Exception):
    """The herd gave no whole answer; the text says what it said."""


class Answer(NamedTuple):
    """Who answered, and how fast as seen from here."""

    node: str
    ttft_s: float
    tokens: int
    tokens_per_s: float


def _ignore(_node: str) -> None:
    pass


def request_body(model: str, *, thinks: bool = False) -> dict[str, object]:
    """What is sent. A model that thinks is asked not to: its thoughts are not an answer."""
    body: dict[str, object] = {
        "model": model,
        "messages": [{"role": "user", "content": PROMPT}],
        "stream": True,
        "options": {"temperature": 0, "num_predict": _MOST_TOKENS},
    }
    return body | {"think": False} if thinks else body


def ask(
    url: str,
    body: dict[str, object],
    show: Callable[[str], None],
    began: Callable[[str], None] = _ignore,
) -> Answer:
    """POST /api/chat to the herd at `url`; `show` gets each piece of the answer as it comes, and
    `began` before that the name of the node that answers.
    """
    try:
        return _ask(url, body, show, began)
    except FAILURES as error:
        raise ChatError(f"the answer broke off: {error or type(error).__name__}") from None


def _ask(
    url: str, body: dict[str, object], show: Callable[[str], None], began: Callable[[str], None]
) -> Answer:
    start_s = monotonic_s()
    first_s = last_s = start_s
    pieces = 0
    with sent("POST", f"{url}/api/chat", body, _SILENCE_S) as response:
        if response.status != 200:
            raise ChatError(_error_of(response.read(65536), response.status))
        node = response.headers.get("X-Herd-Node", "")
        began(node)
        for line in response:
            part = json.loads(line)
            if "error" in part:
                raise ChatError(str(part["error"]))
            piece = part["message"]["content"]
            if piece:
                last_s = monotonic_s()
                first_s = last_s if pieces == 0 else first_s
                pieces += 1
                show(piece)
            if part.get("done"):
                tokens = int(part.get("eval_count") or pieces)
                return Answer(
                    node, first_s - start_s, tokens, _rate(part, tokens, last_s - first_s)
                )
    raise ChatError("the answer ended without its end marker")


def _rate(final: dict[str, object], tokens: int, streamed_s: float) -> float:
    """Tokens per second as the engine counts, else as seen here."""
    duration_ns = final.get("eval_duration")
    seconds = duration_ns / 1e9 if isinstance(duration_ns, int) and duration_ns else streamed_s
    return tokens / seconds if seconds else 0.0


def _error_of(content: bytes, status: int) -> str:
    try:
        return str(json.loads(content)["error"])
    except (ValueError, KeyError, TypeError):
        return f"status {status}"
