"""The dashboard in a real browser at a real router with fake nodes."""

import signal
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from ollama_herd.core.access import ApiKey, Scope
from ollama_herd.store.access import AccessStore, new_key
from ollama_herd.store.database import Database
from tests.e2e.processes import Herd, Node, free_port, wait_until
from tests.fakes.manage import ManagedOllama
from tests.fakes.models import model
from tests.fakes.ollama import FakeOllama
from tests.fakes.state import Fault
from tests.web import browser
from tests.web.fleet import SMALL_FLEET, Heartbeats, Machine, fleet, large_fleet

pytestmark = [
    pytest.mark.skipif(bool(browser.missing()), reason=browser.missing()),
    pytest.mark.timeout(180),
]

EVIL = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>\'"--><marquee>'


def url(herd: Herd) -> str:
    return f"http://127.0.0.1:{herd.port}"


def chat(herd: Herd, model: str, text: str = "hello") -> int:
    body = {"model": model, "messages": [{"role": "user", "content": text}], "stream": False}
    return herd.call("POST", "/api/chat", body).status


@pytest.fixture(scope="module")
def herd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Herd]:
    with Herd(tmp_path_factory.mktemp("herd")).ready() as herd:
        yield herd


@pytest.fixture(scope="module")
def pair(herd: Herd) -> Iterator[tuple[Heartbeats, list[FakeOllama]]]:
    """Two machines and some requests: served, unknown, and one that failed over."""
    with fleet(herd, SMALL_FLEET) as (beats, fakes):
        for model in ("qwen3:32b", "gemma3:27b", "qwen3:32b", "llama3.3:70b"):
            assert chat(herd, model) == 200
        assert chat(herd, "no-such-model") == 404
        for fake in fakes:  # whichever is first fails once
            fake.fail_next(Fault.CLOSE)
        assert chat(herd, "qwen3:32b") in (200, 502)
        for fake in fakes:
            fake.heal()
        yield beats, fakes


@pytest.mark.parametrize("name", ["requests", "others", "playground", "phone", "accessible"])
@pytest.mark.usefixtures("pair")
def test_reader(herd: Herd, name: str) -> None:
    status, said = browser.run(name, url(herd))
    assert status == 0, said


def counted(herd: Herd) -> int:
    """Requests in the trends of today."""
    answer = herd.call("GET", "/dashboard/api/trends?step=minute")
    return sum(point["requests"] for point in answer.json()["points"])


def test_trends_begin_with_the_first_request(tmp_path: Path) -> None:
    with Herd(tmp_path).ready() as herd, fleet(herd):
        assert chat(herd, "qwen3:32b") == 200
        wait_until(lambda: counted(herd) > 0, 30, "the counts to be written")
        status, said = browser.run("trends", url(herd))
    assert status == 0, said


def test_models_are_pulled_and_deleted(tmp_path: Path) -> None:
    """With a typed confirmation, and nothing without it."""
    new = [model("qwen3:1.7b", size_bytes=4000)]
    first = ManagedOllama([model("llama3.2")], registry=new)
    second = ManagedOllama([model("llama3.2")], registry=new)
    with (
        first.in_thread(),
        second.in_thread(),
        Herd(tmp_path).ready() as herd,
        Node(tmp_path, "studio", url(herd), [first.url]),
        Node(tmp_path, "laptop", url(herd), [second.url]),
    ):
        herd.wait_node("studio", "online")
        herd.wait_node("laptop", "online")
        herd.wait_models("llama3.2:latest")
        status, said = browser.run("models", url(herd))
    assert status == 0, said
    assert first.calls["pull done"] >= 1
    assert "qwen3:1.7b" not in {*first.models, *second.models}


def test_fleet_is_live(tmp_path: Path) -> None:
    with Herd(tmp_path).ready() as herd, fleet(herd) as (beats, _):
        status, said = browser.run("fleet", url(herd), {"leave": lambda: beats.leave("tower")})
    assert status == 0, said


def test_health_is_told_and_remembered(tmp_path: Path) -> None:
    with Herd(tmp_path).ready() as herd, fleet(herd) as (beats, _):
        answers = {
            "leave": lambda: beats.leave("tower"),
            "return": lambda: beats.come_back("tower"),
        }
        status, said = browser.run("health", url(herd), answers)
    assert status == 0, said


def test_settings_change_while_it_runs(tmp_path: Path) -> None:
    with Herd(tmp_path, env={"HERD_HEDGE": "false"}).ready() as herd, fleet(herd):
        status, said = browser.run("settings", url(herd))
    assert status == 0, said


def test_the_dashboard_asks_for_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key_id, key, key_hash = new_key()
    home = tmp_path / "router-home"
    entry = ApiKey(key_id=key_id, name="me", key_hash=key_hash, scope=Scope.MANAGE)

    def put(entry: ApiKey) -> None:
        database = Database(home)
        AccessStore(database, home).put(key_id, entry)
        database.close()

    put(entry)
    (tmp_path / "key").write_text(key)
    monkeypatch.setenv("HERD_TEST_KEY_FILE", str(tmp_path / "key"))
    with Herd(tmp_path) as herd:
        herd.wait_status_code(401)
        revoked = msgspec.structs.replace(entry, revoked_s=1.0)
        status, said = browser.run("login", url(herd), {"revoke": lambda: put(revoked)})
    assert status == 0, said


def test_a_newcomer_is_told_what_to_do(tmp_path: Path) -> None:
    with Herd(tmp_path).ready() as herd:
        status, said = browser.run("empty", url(herd))
    assert status == 0, said


def test_fifty_nodes(tmp_path: Path) -> None:
    with Herd(tmp_path).ready() as herd, fleet(herd, large_fleet(50), engines=1):
        status, said = browser.run("large", url(herd))
    assert status == 0, said


def test_hostile_names_do_nothing(tmp_path: Path) -> None:
    names = [EVIL, "\x00\x1b[31mred\r\n\u202egpj.exe\u2066", "x" * 500, "{{7*7}}${7*7}"]
    machines = [
        Machine(name, EVIL, EVIL, 64, [*names, "qwen3:8b"], names[:3], [(EVIL, EVIL, 24, False)])
        for name in names
    ]
    machines[1].error = EVIL * 3
    with Herd(tmp_path).ready() as herd, fleet(herd, machines, engines=1):
        assert chat(herd, "qwen3:8b", EVIL) == 200
        for name in (EVIL, "y" * 10_000, "\u202e\x07"):
            chat(herd, name)
        status, said = browser.run("hostile", url(herd))
    assert status == 0, said


def test_what_is_reported_twice_breaks_no_page(tmp_path: Path) -> None:
    """An engine may run one model twice, and an agent may say anything twice."""
    twice = ["qwen3:8b", "qwen3:8b", "Qwen3:8B"]
    studio = Machine("studio", "Apple M4", "darwin", 64, twice, twice)
    studio.extra = {"vitals": {"doing": ["draw: step 3 of 20"] * 2}}
    with Herd(tmp_path).ready() as herd, fleet(herd, [studio], engines=1):
        assert chat(herd, "qwen3:8b") == 200
        status, said = browser.run("twice", url(herd))
    assert status == 0, said


def test_a_frozen_router_is_not_shown_as_live(tmp_path: Path) -> None:
    with Herd(tmp_path).ready() as herd, fleet(herd):
        answers = {
            "freeze": lambda: herd.signal(signal.SIGSTOP),
            "thaw": lambda: herd.signal(signal.SIGCONT),
        }
        try:
            status, said = browser.run("frozen", url(herd), answers)
        finally:
            herd.signal(signal.SIGCONT)
    assert status == 0, said


def test_the_page_survives_a_restart(tmp_path: Path) -> None:
    port = free_port()
    first = Herd(tmp_path, port=port).ready()
    second: list[Herd] = []

    def restart() -> None:
        first.terminate()
        second.append(Herd(tmp_path, port=port).ready())

    try:
        status, said = browser.run("reconnect", url(first), {"restart": restart})
    finally:
        for one in (first, *second):
            one.kill()
    assert status == 0, said
