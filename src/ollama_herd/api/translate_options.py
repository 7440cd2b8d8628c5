"""Options, `format` and `think` of an Ollama request under the names that OpenAI engines use.

Names that OpenAI does not have are those of llama.cpp's server, which vLLM, LM Studio and MLX-LM
share or ignore. An option that the client did not give is not sent: the engine's own default
holds. Load-time options (`num_ctx` and the like) have no counterpart and are left out.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import msgspec

from ollama_herd.api.bodies import think_error
from ollama_herd.api.translate_values import Fields, RequestRefusedError

MAX_TOP_LOGPROBS: Final = 20
"""Bound of Ollama and of OpenAI alike."""

_OPTIONS: Mapping[str, tuple[str, tuple[str, ...]]] = MappingProxyType(
    {
        # Ollama's name: (its type as Ollama's own error says it, names at the engine)
        "temperature": ("float32", ("temperature",)),
        "top_p": ("float32", ("top_p",)),
        "top_k": ("integer", ("top_k",)),
        "min_p": ("float32", ("min_p",)),
        "typical_p": ("float32", ("typical_p",)),
        # vLLM and MLX-LM say repetition_penalty; every engine ignores the other one's name.
        "repeat_penalty": ("float32", ("repeat_penalty", "repetition_penalty")),
        "repeat_last_n": ("integer", ("repeat_last_n",)),
        "presence_penalty": ("float32", ("presence_penalty",)),
        "frequency_penalty": ("float32", ("frequency_penalty",)),
        "num_keep": ("integer", ("n_keep",)),
        "stop": ("array", ("stop",)),
        "seed": ("integer", ("seed",)),
        "num_predict": ("integer", ("max_tokens",)),
    }
)


def engine_options(request: Fields) -> dict[str, Any]:
    """Ollama's `options` under the engine's names; unknown ones are ignored, as Ollama does.

    Raises `RequestRefusedError` (500, as Ollama) on a value of the wrong type.
    """
    engine: dict[str, Any] = {}
    for name, value in request.mapping("options", "map[string]interface {}").items():
        if value is None or name not in _OPTIONS:
            continue
        type_name, engine_names = _OPTIONS[name]
        converted = _option(name, value, type_name)
        # A negative num_predict means unlimited, a negative seed a random one: both are what an
        # engine does when it is told nothing.
        if name in ("num_predict", "seed") and converted < 0:
            continue
        if name == "num_predict":
            # 0 is a bound as well, no wish for more: llama.cpp, and so Ollama 0.33, which hands it
            # on, gives one token then. vLLM would refuse it.
            converted = max(1, converted)
        engine |= dict.fromkeys(engine_names, converted)
    return engine


def schema_of_format(wanted: Any) -> dict[str, Any] | None:
    """The JSON Schema that `format` stands for, None when it asks for nothing.

    Raises `RequestRefusedError` (500, as Ollama) when it is neither "json" nor an object.
    """
    if wanted is None or wanted == "":
        return None
    if wanted == "json":
        # Not `json_object`: LM Studio refuses it and llama.cpp would allow any JSON value, while
        # Ollama's own grammar allows an object only.
        return {"type": "object"}
    if isinstance(wanted, dict):
        return wanted
    quoted = _quoted(_quoted(wanted))
    raise RequestRefusedError(
        500, f'invalid format: {quoted}; expected "json" or a valid JSON Schema object'
    )


def response_format(schema: dict[str, Any]) -> dict[str, Any]:
    """OpenAI's form of a schema; a name is obligatory there."""
    return {"type": "json_schema", "json_schema": {"name": "schema", "schema": schema}}


def thinking_fields(think: Any) -> dict[str, Any]:
    """How engines are told to reason: by arguments of the chat template and OpenAI's own field.

    Raises `RequestRefusedError` (400) on anything but a boolean or a level.
    """
    if think is None:
        return {}
    if isinstance(think, bool):
        # `thinking` is what the templates of Granite and DeepSeek call it.
        return {"chat_template_kwargs": {"enable_thinking": think, "thinking": think}}
    refusal = think_error(think)
    if refusal:
        raise RequestRefusedError(400, refusal)
    effort = "high" if think == "max" else think  # OpenAI's field ends at high
    template = {"enable_thinking": True, "thinking": True, "reasoning_effort": effort}
    return {"chat_template_kwargs": template, "reasoning_effort": effort}


def top_logprobs(request: Fields) -> int:
    """How many alternatives a token were asked for. Raises `RequestRefusedError` (400)."""
    number = request.integer("top_logprobs")
    if not 0 <= number <= MAX_TOP_LOGPROBS:
        raise RequestRefusedError(400, f"top_logprobs must be between 0 and {MAX_TOP_LOGPROBS}")
    return number


def _option(name: str, value: Any, type_name: str) -> Any:
    if type_name == "array":
        if not isinstance(value, list):
            raise RequestRefusedError(500, f'option "{name}" must be of type array')
        if not all(isinstance(item, str) for item in value):
            raise RequestRefusedError(500, f'option "{name}" must be of an array of strings')
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RequestRefusedError(500, f'option "{name}" must be of type {type_name}')
    return int(value) if type_name == "integer" else value


def _quoted(value: Any) -> str:
    return msgspec.json.encode(value).decode()
