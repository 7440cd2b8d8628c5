"""A router that keeps everything in PostgreSQL instead of in its home folder."""

from pathlib import Path

from tests.e2e.processes import Herd, Node, wait_until
from tests.e2e.test_settings import SETTINGS, put, setting
from tests.fakes.models import recorded_models
from tests.fakes.ollama import FakeOllama


def test_a_router_on_postgres_remembers_over_a_restart(postgres_url: str, tmp_path: Path) -> None:
    engine = FakeOllama(recorded_models())
    env = {"HERD_DATABASE_URL": postgres_url}
    with engine.in_thread():
        with Herd(tmp_path, env=env).ready() as herd:
            url = f"http://127.0.0.1:{herd.port}"
            with Node(tmp_path, "a", url, [engine.url]):
                herd.wait_models("tiny:latest")
                body = {"model": "tiny", "prompt": "x", "stream": False}
                assert herd.call("POST", "/api/generate", body).status == 200
                wait_until(lambda: len(listed(herd)) == 1, 10, "the trace")
                assert herd.terminate()[0] == 0
        with Herd(tmp_path, env=env).ready() as herd:
            assert [node["name"] for node in herd.status()["nodes"]] == ["a"]
            assert [trace["model"] for trace in listed(herd)] == ["tiny:latest"]
            assert not (herd.home / "herd.db").exists()


def test_a_secret_in_a_bad_url_is_not_repeated(tmp_path: Path) -> None:
    with Herd(tmp_path, env={"HERD_DATABASE_URL": "mysql://me:hush@host/db"}) as herd:
        assert herd.popen.wait(20) == 2
        assert "HERD_DATABASE_URL" in herd.log()
        assert "postgresql://user:password@" in herd.log()
        assert "hush" not in herd.log()


def listed(herd: Herd) -> list[dict[str, object]]:
    answer = herd.call("GET", "/dashboard/api/traces")
    found: list[dict[str, object]] = answer.json()["traces"]
    return found


def test_routers_on_one_database_share_what_is_changed(postgres_url: str, tmp_path: Path) -> None:
    env = {"HERD_DATABASE_URL": postgres_url}
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    with (
        Herd(tmp_path / "one", env=env).ready() as one,
        Herd(tmp_path / "two", env=env).ready() as two,
    ):
        assert put(one, "max_attempts", value=1).status == 200
        wait_until(lambda: setting(two, "max_attempts")["value"] == 1, 15, "the change")
        assert setting(two, "max_attempts")["source"] == "dashboard"
        assert two.call("DELETE", f"{SETTINGS}/max_attempts").status == 200
        wait_until(lambda: setting(one, "max_attempts")["source"] == "default", 15, "its end")
        known = setting(one, "max_attempts")
        assert known["value"] == known["default"] != 1
        assert "settings changed by another router" in one.log()
        assert "settings changed by another router" in two.log()
