"""How much of a prompt is text: pictures and sounds are base64 in it and are no text."""

from typing import Any

import msgspec

MEDIA_KEYS = frozenset({"images", "image_url", "source", "input_audio", "file", "file_data"})
"""Keys under which the dialects carry pictures, sounds and documents: Ollama `images`, OpenAI
`image_url`, `input_audio`, `file`, Anthropic `source`."""


def text_bytes(raw: msgspec.Raw) -> tuple[int, bool]:
    """Bytes of text in `raw` (messages or input items), and whether there is media in it.

    Called only when a body seems to carry media. One that cannot be walked counts whole.
    """
    try:
        waiting: list[Any] = [msgspec.json.decode(raw)]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return len(raw), True
    total, has_media = 0, False
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            total += len(value.encode("utf-8", "replace")) if not value.isascii() else len(value)
        elif isinstance(value, list):
            waiting.extend(value)
        elif isinstance(value, dict):
            for key, member in value.items():
                if key not in MEDIA_KEYS:
                    waiting.append(member)
                elif member:
                    has_media = True
    return total, has_media
