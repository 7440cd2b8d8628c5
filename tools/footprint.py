"""What an installation brings with it and how much room it takes: `make footprint`.

Installs this source tree into a folder that is removed afterwards, and lists every package with its
size on disk. `EXTRAS=tls,otel` adds extras.
"""

import importlib.metadata
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from packaging.markers import Marker

from tools.sources import ROOT

NAME = "ollama-herd"
TIMEOUT_S = 900
"""For pip, which may have to download all of it over a slow line."""


def sizes(folder: Path) -> Mapping[str, int]:
    """Bytes on disk of each package in `folder`, byte code included, by its name in the index."""
    found = {}
    for package in importlib.metadata.distributions(path=[str(folder)]):
        files = [Path(str(package.locate_file(file))) for file in package.files or ()]
        compiled = [made for file in files for made in _compiled(file)]
        paths = {path.resolve() for path in (*files, *compiled) if path.is_file()}
        found[package.name.lower().replace("_", "-").replace(".", "-")] = sum(
            path.stat().st_size for path in paths
        )
    return found


def _compiled(file: Path) -> Iterable[Path]:
    return file.parent.glob(f"__pycache__/{file.stem}.*.pyc") if file.suffix == ".py" else ()


def locked(extras: Iterable[str] = (), **environment: str) -> frozenset[str]:
    """The packages that uv.lock says an installation consists of, ours included; `environment`
    overrides markers of this Python (`sys_platform`, `python_full_version` …).
    """
    lock = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))
    packages = {package["name"]: package for package in lock["package"]}
    wanted = [(NAME, tuple(extras))]
    seen = set()
    while wanted:
        name, chosen = wanted.pop()
        seen.add(name)
        package: dict[str, Any] = packages[name]
        parts = [package.get("dependencies", [])]
        parts += [package.get("optional-dependencies", {}).get(extra, []) for extra in chosen]
        for needed in (one for part in parts for one in part):
            applies = "marker" not in needed or Marker(needed["marker"]).evaluate(environment)
            if applies and (needed["name"] not in seen or needed.get("extra")):
                wanted.append((needed["name"], tuple(needed.get("extra", ()))))
    return frozenset(seen)


def main() -> None:
    """Print the packages, the largest first, and their number and size in all."""
    extras = [extra for extra in ",".join(sys.argv[1:]).split(",") if extra]
    what = str(ROOT) + (f"[{','.join(extras)}]" if extras else "")
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", folder, what]
        subprocess.run(command, check=True, timeout=TIMEOUT_S)  # noqa: S603 - pip
        found = sizes(Path(folder))
    for name in sorted(found, key=lambda name: -found[name]):
        print(f"{found[name] / 1e6:8.1f} MB  {name}")  # noqa: T201 - the answer
    print(f"{sum(found.values()) / 1e6:8.1f} MB  in {len(found)} packages")  # noqa: T201


if __name__ == "__main__":
    main()
