"""Model names as Ollama reads them: case-insensitive, with a default host, namespace and tag."""

from collections.abc import Callable

DEFAULT_HOST = "registry.ollama.ai"
DEFAULT_NAMESPACE = "library"
DEFAULT_TAG = "latest"


KEPT_NAMES = 4096
KEPT_CHARS = 512
"""Of names that clients make up only so many, and so long ones, stay in memory; no node may report
a longer one."""


class _Keys(dict[str, str]):
    """Keys of names as they were written."""

    def __missing__(self, name: str) -> str:
        key = _key(name)
        if len(name) <= KEPT_CHARS:
            if len(self) >= KEPT_NAMES:
                self.clear()
            self[name] = key
        return key


canonical_name: Callable[[str], str] = _Keys().__getitem__
"""The one key of a model: `llama3.2`, `Llama3.2:latest` and `registry.ollama.ai/library/llama3.2`
are all `llama3.2:latest`. Defaults are left out of the key, so that it stays what people type.
"""


def _key(name: str) -> str:
    path, _, tag = _split_tag(name.strip().lower())
    parts = path.split("/")
    if len(parts) == 3 and parts[0] == DEFAULT_HOST:
        parts = parts[1:]
    if len(parts) == 2 and parts[0] == DEFAULT_NAMESPACE:
        parts = parts[1:]
    return f"{'/'.join(parts)}:{tag or DEFAULT_TAG}"


def is_cloud_name(key: str) -> bool:
    """Whether a canonical name asks an Ollama for a model of its cloud, whatever it has itself."""
    tag = key.rpartition(":")[2]
    return tag == "cloud" or tag.endswith("-cloud")


def _split_tag(name: str) -> tuple[str, str, str]:
    """A colon belongs to a tag only behind the last slash (a host may carry a port)."""
    slash = name.rfind("/")
    colon = name.find(":", slash + 1)
    if colon < 0:
        return name, "", ""
    return name[:colon], ":", name[colon + 1 :]
