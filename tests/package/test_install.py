"""The wheel in an empty venv, with no Node and no compiler: it runs, and serves the dashboard."""

import http.client
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tools.footprint import locked, sizes

from ollama_herd import __version__
from tests.e2e.processes import START_S, free_port, wait_until
from tests.package.conftest import Built
from tests.package.places import ROOT, Venv, called

DEPENDENCIES = (ROOT / "docs/dependencies.md").read_text()


def asked(port: int, method: str, path: str, body: bytes = b"") -> tuple[int, str, bytes]:
    """Status, content type and body of the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.headers.get_content_type(), answer.read()
    finally:
        connection.close()


@contextmanager
def serving(venv: Venv, folder: Path, **env: str) -> Iterator[int]:
    """The installed `herd`; its port. Its log is in `folder`."""
    port = free_port()
    command = [venv.program("herd"), "--host", "127.0.0.1", "--port", str(port), "--no-mdns"]
    home = {"HERD_HOME": str(folder / "home"), "HOME": str(folder)}
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=venv.environment(**home, **env), stdout=output, stderr=output
        )
    try:

        def answers() -> bool:
            assert process.poll() is None, log.read_text()
            try:
                return asked(port, "GET", "/fleet/status")[0] == 200
            except OSError:
                return False

        wait_until(answers, START_S, "the router to answer")
        yield port
    finally:
        process.terminate()
        process.wait(20)


def test_it_tells_its_version(bare: Venv) -> None:
    for program in ("herd", "herd-node"):
        done = bare.run(program, "--version")
        assert (done.returncode, done.stdout) == (0, f"{program} {__version__}\n")


def test_it_serves_the_dashboard_with_all_its_files(bare: Venv, tmp_path: Path) -> None:
    with serving(bare, tmp_path) as port:
        status, kind, page = asked(port, "GET", "/dashboard")
        assert (status, kind) == (200, "text/html")
        named = re.findall(r'(?:src|href)="(/dashboard/assets/[^"]+)"', page.decode())
        assert {Path(name).suffix for name in named} >= {".js", ".css"}
        static = bare.site / "ollama_herd/dashboard/static"
        files = {f"/dashboard/assets/{file.name}": file for file in (static / "assets").iterdir()}
        assert set(named) < set(files)
        for name, file in files.items():
            assert asked(port, "GET", name)[::2] == (200, file.read_bytes()), name


def test_the_command_line_and_the_agent_start(bare: Venv, tmp_path: Path) -> None:
    home = {"HERD_HOME": str(tmp_path), "HOME": str(tmp_path)}
    assert "demo" in bare.run("herd", "--help", **home).stdout
    assert "--router" in bare.run("herd-node", "--help", **home).stdout
    assert bare.run("herd", "config", "--json", **home).returncode == 0


def test_it_brings_what_the_lock_says_and_no_more_room_than_we_say(bare: Venv) -> None:
    installed = {
        name: size
        for name, size in sizes(bare.site).items()
        if name not in ("pip", "setuptools", "wheel")
    }
    assert set(installed) == locked()
    said = re.search(r"\*\*(\d+) packages, ours among them, and (\d+) MB\*\*", DEPENDENCIES)
    assert said is not None
    assert sum(installed.values()) < 1.2 * int(said[2]) * 10**6  # other systems' files differ
    assert bare.run("python", "-m", "pip", "check").returncode == 0


def test_the_page_says_as_many_packages_as_the_lock() -> None:
    older = {"python_full_version": "3.11.7", "python_version": "3.11"}
    newer = {"python_full_version": "3.14.0", "python_version": "3.14"}
    assert f"**{len(locked(**older))} packages, ours among them" in DEPENDENCIES
    assert f"{len(locked(**newer))}\npackages from Python 3.14 on" in DEPENDENCIES


@pytest.mark.parametrize(
    ("extra", "words", "env"),
    [
        ("tls", ["tls", "init"], {}),
        ("otel", [], {"HERD_OTEL_ENDPOINT": "http://127.0.0.1:9"}),
        ("demo", ["demo", "--once", "--failover"], {}),
    ],
)
def test_a_missing_extra_is_named(
    bare: Venv, tmp_path: Path, extra: str, words: list[str], env: dict[str, str]
) -> None:
    home = {"HERD_HOME": str(tmp_path), "HOME": str(tmp_path), "HERD_PORT": str(free_port())}
    done = bare.run("herd", *words, **home, **env)
    assert done.returncode == 1, done.stdout
    assert f"pip install '.[{extra}]'" in done.stdout
    assert "Traceback" not in done.stdout


def test_without_the_driver_the_herd_goes_on_and_names_the_extra(
    bare: Venv, tmp_path: Path
) -> None:
    url = "postgresql://herd@127.0.0.1:9/herd"
    with serving(bare, tmp_path, HERD_DATABASE_URL=url):
        assert "pip install '.[postgres]'" in (tmp_path / "log").read_text()


def test_a_program_that_imports_it_is_type_checked(bare: Venv, tmp_path: Path) -> None:
    """py.typed is found; without it the import would be an error of its own."""
    code = "from ollama_herd.core.names import is_cloud_name\nis_cloud_name(1)\n"
    (tmp_path / "app.py").write_text(code)
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent"]
    command += ["--python-executable", bare.program("python"), "--cache-dir", str(tmp_path / "c")]
    done = called([*command, "app.py"], bare.environment(), tmp_path)
    assert 'Argument 1 to "is_cloud_name"' in done.stdout, done.stdout
    assert "Found 1 error" in done.stdout


def test_the_source_archive_installs_without_node_and_leaves_nothing(
    built: Built, path: str, tmp_path: Path
) -> None:
    """As from an index that has no wheel: it is built, of the pages that are in it."""
    venv = Venv(tmp_path / "venv", path)
    pip = ("python", "-m", "pip")
    done = venv.run(*pip, "install", "--verbose", "--no-deps", str(built.sdist))
    assert done.returncode == 0, done.stdout
    assert "nodejs" not in done.stdout
    assert (venv.site / "ollama_herd/dashboard/static/index.html").is_file()
    assert venv.run("herd", "--version").stdout == f"herd {__version__}\n"
    assert venv.run(*pip, "uninstall", "--yes", "ollama-herd").returncode == 0
    assert not list(venv.site.glob("ollama_herd*"))
