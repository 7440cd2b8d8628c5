"""`/v1/messages/count_tokens`: the estimate that Ollama itself uses, four bytes to a token."""

from ollama_herd.api.bodies import is_empty
from ollama_herd.api.endpoints import INFERENCE
from ollama_herd.api.errors import ApiError, bad_body, missing_model
from ollama_herd.api.lenient import read_members
from ollama_herd.api.media import text_bytes
from ollama_herd.api.parse import BYTES_PER_TOKEN
from ollama_herd.api.zstd import unpack_zstd

_ENDPOINT = INFERENCE[b"/v1/messages"]


def count_tokens(body: bytes, content_encoding: str = "") -> bytes | ApiError:
    """The answer, or why the body is none of Anthropic's. No model is looked at."""
    if content_encoding == "zstd":
        plain = unpack_zstd(body)
        return plain if isinstance(plain, ApiError) else count_tokens(plain)
    members = read_members(_ENDPOINT, body)
    if isinstance(members, ApiError):
        return members
    model, messages = members.get("model"), members.get("messages")
    if model is None or is_empty(model):
        return missing_model(_ENDPOINT)
    if messages is None or is_empty(messages):
        return bad_body("messages is required")
    size, _ = text_bytes(messages)
    size += sum(len(members[key]) for key in ("system", "tools") if key in members)
    return b'{"input_tokens":%d}' % (size // BYTES_PER_TOKEN)
