"""API keys: nobody without one gets anything, each opens what it is for, up to its limits."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tools.routes import herd_app
from typer.testing import CliRunner

from ollama_herd import logs
from ollama_herd.api.access import needed_scope, shown_key
from ollama_herd.api.endpoints import INFERENCE, MEDIA
from ollama_herd.cli.commands import app
from ollama_herd.core.access import ApiKey, Scope
from ollama_herd.router.keys import KeyRing
from ollama_herd.store.access import AccessStore, new_key
from ollama_herd.store.database import Database
from tests.e2e.processes import Herd, Node, wait_until
from tests.fakes.models import model
from tests.fakes.ollama import FakeOllama
from tests.fakes.raw import Client, Response
from tests.fakes.state import Settings
from tests.security.conftest import CHAT

DIALECTS = ("/api/chat", "/api/generate", "/v1/chat/completions", "/v1/messages")
ASK = {**CHAT, "prompt": "Say hi", "max_tokens": 5}


def cli(home: Path | None, *words: str, code: int = 0, group: str = "keys") -> str:
    """`herd keys …` on this home, or `herd GROUP …`; what it printed."""
    options = [] if home is None else ["--home", str(home)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logs, "setup", lambda _level: None)  # the log is this process's own
        done = CliRunner().invoke(app, [group, *words, *options])
    assert done.exit_code == code, done.output
    return done.stdout if not code else done.output


@dataclass
class Locked:
    """A herd with one node and keys; `keys` by name."""

    herd: Herd
    engine: FakeOllama
    keys: dict[str, str] = field(default_factory=dict)

    def make(self, name: str, **rules: Any) -> str:
        """What `herd keys create` does, without a process."""
        key_id, key, key_hash = new_key()
        database = Database(self.herd.home)
        entry = ApiKey(key_id=key_id, name=name, key_hash=key_hash, **rules)
        AccessStore(database, self.herd.home).put(key_id, entry)
        database.close()
        self.keys[name] = key
        return key

    def call(self, method: str, path: str, key: str, body: object = None) -> Response:
        return self.herd.call(method, path, body, {"Authorization": f"Bearer {key}"})

    def wait_good(self, key: str) -> None:
        wait_until(lambda: self.call("GET", "/api/tags", key).status == 200, 10, "the key to work")


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Locked]:
    folder = tmp_path_factory.mktemp("locked")
    engine = FakeOllama([model("tiny"), model("other")], Settings(is_frozen=True, num_parallel=8))
    with engine.in_thread(), Herd(folder).ready() as herd:
        url = f"http://127.0.0.1:{herd.port}"
        with Node(folder, "a", url, [engine.url]):
            herd.wait_models("tiny:latest", "other:latest")
            found = Locked(herd, engine)
            found.make("user")
            found.make("manager", scope=Scope.MANAGE)
            found.make("admin", scope=Scope.ADMIN)
            found.make("gone", revoked_s=1.0)
            found.make("tiny-only", models=("tin*",))
            herd.wait_status_code(401)
            yield found
            assert "Traceback" not in herd.log()


# --- what a request has to show ----------------------------------------------------------------


@pytest.mark.parametrize("path", DIALECTS)
@pytest.mark.parametrize("shown", ["", "Bearer wrong", "Bearer", "Basic dXNlcjpwdw=="])
def test_no_key_no_answer(locked: Locked, path: str, shown: str) -> None:
    before = locked.engine.counters.received
    answer = locked.herd.call("POST", path, ASK, {"Authorization": shown} if shown else {})
    assert answer.status == 401
    assert answer.header("www-authenticate") == "Bearer"
    error = answer.json()["error"]
    if path == "/v1/messages":
        assert (answer.json()["type"], error["type"]) == ("error", "authentication_error")
    elif path == "/v1/chat/completions":
        assert error["code"] == "invalid_api_key"
    text = error if isinstance(error, str) else error["message"]
    assert "key" in text
    assert locked.engine.counters.received == before


@pytest.mark.parametrize("path", DIALECTS)
@pytest.mark.parametrize("header", ["Authorization", "x-api-key"])
def test_a_key_opens_every_dialect(locked: Locked, path: str, header: str) -> None:
    key = locked.keys["user"]
    shown = {header: f"Bearer {key}" if header == "Authorization" else key}
    answer = locked.herd.call("POST", path, ASK, shown)
    assert answer.status == 200, answer.body
    sent = {n.lower(): v for n, v in locked.engine.state.requests[-1][2]}
    assert key not in str(sent)  # it is for the herd, never for an engine


def test_slow_path_asks_for_the_key_too(locked: Locked) -> None:
    body = json.dumps(ASK).encode()
    for extra, status in (("", 401), (f"x-api-key: {locked.keys['user']}\r\n", 200)):
        with Client(locked.herd.port) as client:
            head = f"POST /api/chat HTTP/1.0\r\n{extra}Content-Length: {len(body)}\r\n\r\n"
            client.send(head.encode() + body)
            assert client.read().status == status


def test_a_long_body_without_a_key_is_not_read(locked: Locked) -> None:
    with Client(locked.herd.port, timeout_s=5) as client:
        client.send(b"POST /api/chat HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n")
        assert client.read().status == 401


def test_a_revoked_key_is_worthless(locked: Locked) -> None:
    assert locked.call("POST", "/api/chat", locked.keys["gone"], CHAT).status == 401
    assert locked.call("GET", "/api/tags", locked.keys["gone"]).status == 401


def test_neither_id_nor_hash_is_a_key(locked: Locked) -> None:
    text = cli(locked.herd.home, "list", "--json")
    assert "key_hash" not in text
    for entry in json.loads(text):
        near = f"herd_{entry['key_id']}_{'A' * 43}"
        assert locked.call("GET", "/api/tags", near).status == 401
    home = b"".join(p.read_bytes() for p in locked.herd.home.iterdir() if p.is_file())
    for key in locked.keys.values():
        assert key.encode() not in home
        assert key.split("_", 2)[2].encode() not in home
        assert key not in locked.herd.log()


# --- scopes ------------------------------------------------------------------------------------


def test_every_route_but_few_needs_a_key(locked: Locked) -> None:
    """A route that is added later is closed unless somebody opens it on purpose."""
    open_routes = set()
    for route in herd_app().router.routes():
        path = route.resource.canonical if route.resource is not None else ""
        if needed_scope(route.method, path) is None:
            open_routes.add((route.method, path))
            continue
        if route.method in ("HEAD", "*"):
            continue
        real = path.replace("{", "").replace("}", "")
        answer = locked.herd.call(route.method, real, {} if route.method != "GET" else None)
        wanted = 303 if path == "/dashboard" else 401
        assert answer.status == wanted, (route.method, path, answer.body)
    assert {path for _, path in open_routes} == {
        "/",
        "/api/version",
        "/dashboard/assets/{name}",
        "/dashboard/login",
        "/dashboard/logout",
        "/fleet/heartbeat",
        "/v1/images/files/{name}",
    }


def test_inference_needs_the_least() -> None:
    for path in (*INFERENCE, *MEDIA):
        assert needed_scope("POST", path.decode()) is Scope.INFERENCE
    assert needed_scope("DELETE", "/api/delete") is Scope.MANAGE
    assert needed_scope("POST", "/api/anything/new") is Scope.MANAGE
    assert needed_scope("GET", "/anything/new") is Scope.MANAGE
    assert needed_scope("POST", "/fleet/anything") is Scope.ADMIN
    assert needed_scope("POST", "/") is Scope.ADMIN


@pytest.mark.parametrize(
    ("method", "path", "statuses"),
    [
        ("GET", "/v1/models", (200, 200, 200)),
        ("GET", "/fleet/status", (403, 200, 200)),
        ("GET", "/dashboard/api/traces", (403, 200, 200)),
        ("DELETE", "/api/delete", (403, 400, 400)),
        ("GET", "/%66leet/status", (403, 200, 200)),
        ("DELETE", "/api/%64elete", (403, 400, 400)),
        ("GET", "//fleet/status", (307, 307, 307)),
        ("GET", "/nope", (404, 404, 404)),
    ],
)
def test_scopes(locked: Locked, method: str, path: str, statuses: tuple[int, ...]) -> None:
    body = b"{}" if method == "DELETE" else None
    for name, status in zip(("user", "manager", "admin"), statuses, strict=True):
        answer = locked.call(method, path, locked.keys[name], body)
        assert answer.status == status, (name, answer.body)
        if status == 403:
            assert f"'{name}'" in answer.body.decode()


def test_a_key_for_some_models(locked: Locked) -> None:
    key = locked.keys["tiny-only"]
    assert locked.call("POST", "/api/chat", key, CHAT).status == 200
    for path in DIALECTS:
        answer = locked.call("POST", path, key, {**ASK, "model": "other"})
        assert answer.status == 403
        assert "'other'" in answer.body.decode()
    falling = {**CHAT, "model": "tiny", "fallback_models": ["other"]}
    assert locked.call("POST", "/api/chat", key, falling).status == 403


@pytest.mark.parametrize(
    ("path", "listed", "name"),
    [("/api/tags", "models", "name"), ("/api/ps", "models", "name"), ("/v1/models", "data", "id")],
)
def test_a_key_lists_the_models_it_is_for(
    locked: Locked, path: str, listed: str, name: str
) -> None:
    for asked in ("tiny", "other"):  # so that both are in memory
        body = {**CHAT, "model": asked}
        assert locked.call("POST", "/api/chat", locked.keys["user"], body).status == 200

    def seen(key: str) -> set[str]:
        found = locked.call("GET", path, locked.keys[key]).json()[listed]
        return {one[name].partition(":")[0] for one in found}

    assert seen("user") == {"tiny", "other"}
    assert seen("tiny-only") == {"tiny"}


def test_a_model_of_others_is_as_if_it_were_not_there(locked: Locked) -> None:
    asked = {key: locked.call("GET", "/v1/models/other", locked.keys[key]) for key in locked.keys}
    assert asked["user"].status == 200
    unknown = locked.call("GET", "/v1/models/nowhere", locked.keys["tiny-only"])
    assert asked["tiny-only"].status == unknown.status == 404
    assert asked["tiny-only"].body == unknown.body.replace(b"nowhere", b"other")
    shown = locked.call("POST", "/api/show", locked.keys["tiny-only"], {"model": "other"})
    assert shown.status == 404
    assert locked.call("POST", "/api/show", locked.keys["user"], {"model": "other"}).status == 200


# --- limits ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", DIALECTS)
def test_requests_a_minute(locked: Locked, path: str) -> None:
    key = locked.make(f"rpm{DIALECTS.index(path)}", requests_per_minute=2)
    locked.wait_good(key)  # lists do not count
    statuses = [locked.call("POST", path, key, ASK).status for _ in range(2)]
    answer = locked.call("POST", path, key, ASK)
    assert (*statuses, answer.status) == (200, 200, 429)
    assert 1 <= int(answer.header("retry-after")) <= 30
    error = answer.json()["error"]
    if path == "/v1/messages":
        assert error["type"] == "rate_limit_error"
    elif path == "/v1/chat/completions":
        assert error["code"] == "rate_limit_exceeded"


def test_requests_at_once(locked: Locked) -> None:
    key = locked.make("single", concurrency=1)
    locked.wait_good(key)
    locked.engine.reset(Settings(is_frozen=True, num_parallel=8, prefill_ms=3000.0))
    try:
        with Client(locked.herd.port) as first:
            first.ask("POST", "/api/chat", {**CHAT, "stream": True}, {"x-api-key": key})
            locked.engine.wait_for(lambda c: c.in_flight == 1, 10, "the first to run")
            answer = locked.call("POST", "/api/chat", key, CHAT)
            assert (answer.status, answer.header("retry-after")) == (429, "1")
        locked.engine.wait_for(lambda c: c.in_flight == 0, 10, "the first to have left")
    finally:
        locked.engine.reset(Settings(is_frozen=True, num_parallel=8))
    assert locked.call("POST", "/api/chat", key, CHAT).status == 200  # its slot came back


def test_tokens_a_minute(locked: Locked) -> None:
    key = locked.make("tokens", tokens_per_minute=10)
    locked.wait_good(key)
    answers = [locked.call("POST", "/api/chat", key, CHAT) for _ in range(6)]
    assert answers[0].status == 200
    assert answers[-1].status == 429
    assert "tokens per minute" in answers[-1].json()["error"]


def test_traces_name_the_key(locked: Locked) -> None:
    locked.call("POST", "/api/chat", locked.keys["user"], CHAT)

    def is_named() -> bool:
        page = locked.call("GET", "/dashboard/api/traces?key=user", locked.keys["admin"])
        return bool(page.status == 200 and page.json()["traces"])

    wait_until(is_named, 10, "the trace")


def test_traces_tell_what_a_key_was_not_good_for(locked: Locked) -> None:
    asked = {**CHAT, "model": "other:1b"}
    assert locked.call("POST", "/api/chat", locked.keys["tiny-only"], asked).status == 403

    def is_told() -> bool:
        path = "/dashboard/api/traces?key=tiny-only&model=other:1b&status=403"
        page = locked.call("GET", path, locked.keys["admin"])
        return bool(page.status == 200 and page.json()["traces"])

    wait_until(is_told, 10, "the trace")


# --- the dashboard -----------------------------------------------------------------------------


def _log_in(locked: Locked, key: str, **headers: str) -> Response:
    form = {"Content-Type": "application/x-www-form-urlencoded", **headers}
    return locked.herd.call("POST", "/dashboard/login", f"key={key}".encode(), form)


def test_dashboard_login(locked: Locked) -> None:
    answer = _log_in(locked, locked.keys["admin"])
    assert (answer.status, answer.header("location")) == (303, "/dashboard")
    cookie = answer.header("set-cookie")
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert locked.keys["admin"] not in cookie
    session = {"Cookie": f"a=b; {cookie.partition(';')[0]}"}
    assert locked.herd.call("GET", "/dashboard/api/fleet", None, session).status == 200
    assert locked.herd.call("GET", "/dashboard", None, session).status in (200, 503)  # if built
    assert locked.herd.call("POST", "/api/chat", CHAT, session).status == 200
    own = {**session, "Origin": "http://127.0.0.1"}
    assert locked.herd.call("POST", "/api/chat", CHAT, own).status == 200
    for origin in ("http://localhost:3000", "http://127.0.0.1:3000", "app://x"):
        foreign = {**session, "Origin": origin}  # may come in, but not in the visitor's name
        assert locked.herd.call("POST", "/api/chat", CHAT, foreign).status == 401
        assert locked.herd.call("DELETE", "/api/delete", {"model": "x"}, foreign).status == 401


def test_wrong_logins(locked: Locked) -> None:
    for key in ("nope", locked.keys["gone"], locked.keys["user"], "%00", "x" * 10_000):
        answer = _log_in(locked, key)
        assert answer.header("location") == "/dashboard/login#wrong"
        assert not answer.header("set-cookie")
    assert _log_in(locked, locked.keys["admin"], Origin="http://localhost:3000").status == 403
    as_json = locked.herd.call("POST", "/dashboard/login", {"key": "nope"})
    assert (as_json.status, as_json.json()["code"]) == (401, "wrong_key")


def test_forged_sessions(locked: Locked) -> None:
    cookie = _log_in(locked, locked.keys["manager"]).header("set-cookie").partition(";")[0]
    name, _, session = cookie.partition("=")
    key_id, until, proof = session.split(".")
    admin_id = locked.keys["admin"].split("_")[1]
    for forged in (
        f"{admin_id}.{until}.{proof}",
        f"{key_id}.{int(until) + 1}.{proof}",
        f"{key_id}.{until}.{'0' * 64}",
        f"{key_id}.{until}.",
        f"{key_id}.1.{proof}",
        f"{key_id}.99999999999999.{proof}",
        "..",
        "x",
        "\u00e9",
    ):
        shown = {"Cookie": f"{name}={forged}"}
        answer = locked.herd.call("GET", "/dashboard/api/fleet", None, shown)
        assert answer.status == 401, forged


def test_logout(locked: Locked) -> None:
    answer = locked.herd.call("POST", "/dashboard/logout", b"")
    assert answer.status == 303
    assert "Max-Age=0" in answer.header("set-cookie")


# --- keys as a whole ---------------------------------------------------------------------------


def test_sessions_end() -> None:
    ring = KeyRing(lambda _origin, _host: True)
    key_id, key, key_hash = new_key()
    admin = ApiKey(key_id=key_id, name="a", key_hash=key_hash, scope=Scope.ADMIN)
    ring.replace([admin])
    session = ring.log_in(key)
    assert session is not None
    assert ring._by_session(session) is not None
    assert ring._by_session(ring._session(key_id, 1000)) is None
    ring.replace([ApiKey(key_id=key_id, name="a", key_hash=key_hash, revoked_s=1.0)])
    assert ring._by_session(session) is None
    assert ring.are_needed  # a revoked key must not open the door to all


def test_both_headers_of_clients() -> None:
    assert shown_key([(b"authorization", b"bearer  k ")]) == b"k"
    assert shown_key([(b"x-api-key", b" k "), (b"authorization", b"Bearer other")]) == b"k"
    assert shown_key([(b"authorization", b"Basic k")]) == b""


def test_off_opens_and_an_unreadable_database_does_not(tmp_path: Path) -> None:
    home = tmp_path / "router-home"
    key = json.loads(cli(home, "create", "only", "--json").splitlines()[-1])["key"]
    with Herd(tmp_path) as herd:
        herd.wait_status_code(401)
    (home / "herd.db").rename(tmp_path / "kept.db")
    for rest in ("herd.db-wal", "herd.db-shm"):
        (home / rest).unlink(missing_ok=True)
    (home / "herd.db").write_bytes(b"not a database " * 1000)
    with Herd(tmp_path) as herd:
        herd.wait_status_code(503)
        answer = herd.call("POST", "/api/chat", CHAT, {"x-api-key": key})
        assert (answer.status, answer.header("retry-after")) == (503, "5")
    (home / "herd.db").unlink()
    (tmp_path / "kept.db").rename(home / "herd.db")
    with Herd(tmp_path) as herd:
        herd.wait_status_code(401)
        cli(home, "off", "--yes")
        herd.wait_status_code(200)


def test_the_command_line_says_what_is_wrong(tmp_path: Path) -> None:
    assert "is no scope" in cli(tmp_path, "create", "x", "--scope", "root", code=2)
    assert "no key 'x'" in cli(tmp_path, "revoke", "x", code=1)
    cli(tmp_path, "create", "x")
    assert "already" in cli(tmp_path, "create", "x", code=1)
    assert "x" in cli(tmp_path, "list")
    assert "no keys any more" in cli(tmp_path, "off", "--yes")
    assert "no keys" in cli(tmp_path, "list")
