"""Which weights are on this machine already, in Hugging Face's cache. Looks, never fetches."""

import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

_WEIGHTS = (".safetensors", ".bin", ".gguf", ".npz")


def cache_folder(environment: Mapping[str, str]) -> Path:
    """Where Hugging Face's libraries keep what they have fetched."""
    if environment.get("HF_HUB_CACHE"):
        return Path(environment["HF_HUB_CACHE"]).expanduser()
    if environment.get("HF_HOME"):
        return Path(environment["HF_HOME"]).expanduser() / "hub"
    caches = environment.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(caches).expanduser() / "huggingface" / "hub"


def weights_bytes(cache: Path, repository: str) -> int:
    """How large the weights of a repository are on the disk; 0 when they are not all there."""
    snapshots = cache / f"models--{repository.replace('/', '--')}" / "snapshots"
    try:
        return max((_snapshot_bytes(one) for one in snapshots.iterdir()), default=0)
    except OSError:
        return 0


def _snapshot_bytes(snapshot: Path) -> int:
    total = 0
    for folder, _, names in os.walk(snapshot):
        for name in names:
            path = Path(folder, name)
            if name.endswith(".safetensors.index.json") and not _has_shards(path):
                return 0
            if name.endswith(_WEIGHTS):
                if not path.exists():  # a link to what was never fetched whole
                    return 0
                total += path.stat().st_size
    return total


def _has_shards(index: Path) -> bool:
    try:
        shards = set(json.loads(index.read_bytes())["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return False
    return all((index.parent / str(shard)).exists() for shard in shards)


def find_command(name: str, environment: Mapping[str, str]) -> Path | None:
    """A command on PATH, or where pip, uv and Homebrew put one: a service's PATH is short."""
    places = [
        environment.get("PATH", os.defpath),
        str(Path(sys.executable).parent),
        str(Path("~/.local/bin").expanduser()),
        "/opt/homebrew/bin",
        "/usr/local/bin",
    ]
    found = shutil.which(name, path=os.pathsep.join(places))
    return Path(found) if found else None
