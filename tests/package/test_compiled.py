"""The wheel with a compiled core does what plain Python does: it passes the same tests."""

import ast
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.package.places import ROOT, called, check_out, is_offline

PACKAGE = ROOT / "src" / "ollama_herd"

_PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
COMPILED: list[str] = _PROJECT["tool"]["hatch"]["build"]["hooks"]["custom"]["compiled"]

SAME_TESTS = ("tests/core", "tests/store/test_round_trip.py", "tests/e2e/test_queue.py")
"""Those of the compiled modules; the last starts a router and agents as processes."""

TESTS_TIMEOUT_S = 500

can_compile = pytest.mark.skipif(
    shutil.which((sysconfig.get_config_var("CC") or "cc").split()[0]) is None
    or not Path(sysconfig.get_path("include"), "Python.h").exists(),
    reason="no C compiler, or no headers of this Python",
)


@pytest.mark.parametrize("name", COMPILED)
def test_a_compiled_module_defines_no_struct(name: str) -> None:
    """mypyc takes such a class for one of its own, and leaves `frozen` and the like out."""
    tree = ast.parse((PACKAGE / f"{name}.py").read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            bases = {ast.unparse(base) for base in node.bases}
            assert not node.keywords
            assert "msgspec.Struct" not in bases, node.name


@can_compile
def test_a_compiled_core_passes_the_tests_of_the_core(tmp_path: Path) -> None:
    sources = check_out(tmp_path / "sources")
    env = {**os.environ, "COMPILE_CORE": "1", "SKIP_DASHBOARD": "1"}
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(sources)]
    done = called(command, env)
    if done.returncode and is_offline(done.stdout):
        pytest.skip("the package index cannot be reached")
    assert done.returncode == 0, done.stdout
    (wheel,) = tmp_path.glob("*.whl")
    assert not wheel.name.endswith("-none-any.whl")
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    assert not list(sources.rglob("*__mypyc*")), "extensions beside the sources would hide them"

    env = {**os.environ, "PYTHONPATH": str(site)}
    where = "import sys, ollama_herd.core.routing as r; sys.exit(r.__file__.endswith('.py'))"
    assert called([sys.executable, "-c", where], env).returncode == 0
    tested = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *SAME_TESTS],
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=TESTS_TIMEOUT_S,
    )
    assert tested.returncode == 0, tested.stdout[-4000:]
