"""Each extra, installed from the built wheel into a venv without compilers: its feature starts."""

import re
from pathlib import Path

import pytest
from tools.footprint import locked, sizes

from ollama_herd.demo import model
from tests.cli.test_demo import GGUF, NO_OLLAMA
from tests.e2e.processes import wait_until
from tests.package.conftest import Built
from tests.package.places import Venv
from tests.package.test_install import asked, serving
from tests.router.test_telemetry import collecting
from tests.store import postgres

EXTRAS = ("tls", "otel", "postgres", "demo")


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory, path: str, built: Built) -> Venv:
    """All extras at once."""
    venv = Venv(tmp_path_factory.mktemp("full") / "venv", path)
    venv.pip_install("--no-compile", f"{built.wheel}[{','.join(EXTRAS)}]")
    return venv


def test_they_bring_what_the_lock_says(full: Venv) -> None:
    assert set(sizes(full.site)) - {"pip", "setuptools", "wheel"} == locked(EXTRAS)


def test_tls_makes_certificates(full: Venv, tmp_path: Path) -> None:
    home = {"HERD_HOME": str(tmp_path), "HOME": str(tmp_path)}
    done = full.run("herd", "tls", "init", **home)
    assert done.returncode == 0, done.stdout
    assert "BEGIN CERTIFICATE" in (tmp_path / "tls/ca.pem").read_text()


def test_otel_sends_to_its_collector(full: Venv, tmp_path: Path) -> None:
    with collecting() as collector:
        with serving(full, tmp_path, HERD_OTEL_ENDPOINT=collector.url) as port:
            assert asked(port, "POST", "/api/chat", b'{"model": "none"}')[0] == 404
        assert collector.raw  # what is left is sent at the end


@pytest.mark.skipif(postgres.programs() is None, reason="no PostgreSQL here")
def test_postgres_keeps_the_traces(full: Venv, tmp_path: Path) -> None:
    programs = postgres.programs()
    assert programs is not None
    log = tmp_path / "log"
    with (
        postgres.running(programs) as server,
        serving(full, tmp_path, HERD_DATABASE_URL=server.new_database()),
    ):
        wait_until(lambda: "database migrated" in log.read_text(), 20, "the tables")
    assert "cannot be used" not in log.read_text()


@pytest.mark.engine
@pytest.mark.skipif(not Path(GGUF).is_file(), reason="HERD_TEST_GGUF names no model file")
def test_the_demo_answers(full: Venv, tmp_path: Path) -> None:
    (tmp_path / "home/demo").mkdir(parents=True)
    (tmp_path / "home/demo" / model.GGUF.name).symlink_to(GGUF)
    home = {"HERD_HOME": str(tmp_path / "home"), "HOME": str(tmp_path), "HERD_PORT": "0"}
    done = full.run("herd", "demo", "--once", **home, **NO_OLLAMA)
    assert done.returncode == 0, done.stdout
    assert re.search(r"node-[ab] answered: first token after", done.stdout)
