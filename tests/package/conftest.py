"""The package is built once, from a source tree without pages on a machine without Node."""

import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.package.places import Venv, called, check_out, environment, is_offline, narrow_path


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Installing takes longer than other tests do, and is done by POSIX names here."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(600))
            if sys.platform == "win32":
                item.add_marker(pytest.mark.skip(reason="a PATH is made of links"))


class Built(NamedTuple):
    """What `python -m build` gave: the archive of the sources, and the wheel made of that."""

    sdist: Path
    wheel: Path
    log: str


@pytest.fixture(scope="session")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A PATH without Node and compilers."""
    return narrow_path(tmp_path_factory.mktemp("path") / "bin")


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, path: str) -> Built:
    """Skips where the registries cannot be reached."""
    sources = check_out(tmp_path_factory.mktemp("sources"))
    out = tmp_path_factory.mktemp("dist")
    done = called(
        [sys.executable, "-m", "build", "--outdir", str(out), str(sources)], environment(path)
    )
    if done.returncode and is_offline(done.stdout):
        pytest.skip("the package index or the npm registry cannot be reached")
    assert done.returncode == 0, done.stdout
    (sdist,) = out.glob("*.tar.gz")
    (wheel,) = out.glob("*.whl")
    return Built(sdist, wheel, done.stdout)


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory, path: str, built: Built) -> Venv:
    """An empty venv into which the wheel was installed, with no extra."""
    venv = Venv(tmp_path_factory.mktemp("bare") / "venv", path)
    venv.pip_install(str(built.wheel))
    return venv
