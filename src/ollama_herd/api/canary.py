"""The request for one token that shows whether a model still answers."""

from typing import Any

import msgspec

from ollama_herd.core.node import EngineKind, Replica
from ollama_herd.core.request import InferenceRequest, Kind

WORD = "1"
"""The whole prompt of a canary: one token, as short as a prompt can be."""


def canary_call(replica: Replica, last: InferenceRequest) -> tuple[str, bytes]:
    """Path and body of a request like `last` for one token.

    Says nothing of the keep-alive, which so stays what it was. Repeats the load options and names
    the window that is loaded, since an Ollama would load the model anew for other ones.
    """
    is_embed = last.kind is Kind.EMBED
    if replica.kind is EngineKind.OLLAMA:
        options: dict[str, Any] = dict(last.load_options)
        if replica.loaded is not None and replica.loaded.context_length:
            options["num_ctx"] = replica.loaded.context_length
        asked: dict[str, Any] = {"model": last.model}
        if is_embed:
            path = "/api/embed"
            asked |= {"input": WORD}
        else:
            path = "/api/generate"
            options["num_predict"] = 1
            asked |= {"prompt": WORD, "raw": True, "stream": False}
        if options:
            asked["options"] = options
        return path, msgspec.json.encode(asked)
    asked = {"model": replica.model.name}
    if is_embed:
        return "/v1/embeddings", msgspec.json.encode({**asked, "input": WORD})
    asked |= {"max_tokens": 1, "stream": False}
    if last.kind is Kind.GENERATE:
        return "/v1/completions", msgspec.json.encode({**asked, "prompt": WORD})
    messages = [{"role": "user", "content": WORD}]
    return "/v1/chat/completions", msgspec.json.encode({**asked, "messages": messages})
