"""What a web page of a stranger can do to a herd on the visitor's network: nothing."""

import pytest

from tests.e2e.processes import Herd
from tests.security.conftest import CHAT, Target

EVIL = "http://evil.example.com"
REBOUND = "evil.example.com:11435"

READS = (
    "/",
    "/api/tags",
    "/api/ps",
    "/v1/models",
    "/fleet/status",
    "/fleet/queue",
    "/dashboard",
    "/dashboard/events",
    "/dashboard/api/fleet",
    "/dashboard/api/traces",
    "/nope",
)
INFERENCE = ("/api/chat", "/api/generate", "/v1/chat/completions", "/v1/messages")
CHANGES = (
    ("DELETE", "/api/delete"),
    ("POST", "/api/pull"),
    ("POST", "/api/copy"),
    ("POST", "/api/create"),
    ("POST", "/fleet/heartbeat"),
)
TYPES = (
    "text/plain",
    "application/x-www-form-urlencoded",
    "multipart/form-data",
    "application/json",
)


@pytest.mark.parametrize("path", READS)
def test_a_rebound_name_reads_nothing(target: Target, path: str) -> None:
    answer = target.call("GET", path, Host=REBOUND)
    assert answer.status == 403
    assert "allowed_hosts" in answer.body.decode()
    assert not answer.header("access-control-allow-origin")


@pytest.mark.parametrize("path", INFERENCE)
@pytest.mark.parametrize("origin", ["", f"http://{REBOUND}"], ids=["no origin", "its own"])
def test_a_rebound_name_asks_nothing(target: Target, path: str, origin: str) -> None:
    before = target.engine.counters.received
    answer = target.call("POST", path, CHAT, Host=REBOUND, **({"Origin": origin} if origin else {}))
    assert answer.status == 403
    error = answer.json()["error"]
    assert REBOUND in (error if isinstance(error, str) else error["message"])
    assert target.engine.counters.received == before


def test_a_rebound_name_is_refused_on_the_slow_path_too(target: Target) -> None:
    body = b"POST /api/chat HTTP/1.0\r\nHost: evil.example.com\r\nContent-Length: 2\r\n\r\n{}"
    assert target.raw(body).status == 403


def test_usual_names_are_let_in(target: Target) -> None:
    for host in ("127.0.0.1", "localhost:11435", "herd.local", "[::1]:11435", "ollama-herd"):
        assert target.call("GET", "/api/tags", Host=host).status == 200, host
        assert target.call("POST", "/api/chat", CHAT, Host=host).status == 200, host


@pytest.mark.parametrize("content_type", TYPES)
@pytest.mark.parametrize(("method", "path"), CHANGES, ids=[path for _, path in CHANGES])
@pytest.mark.parametrize("origin", [EVIL, "null", "http://localhost.evil.example.com", "http://["])
def test_no_change_from_a_foreign_page(
    target: Target, method: str, path: str, content_type: str, origin: str
) -> None:
    body = b'{"model":"tiny","source":"tiny","destination":"x"}'
    answer = target.call(method, path, body, Origin=origin, Content_Type=content_type)
    assert (answer.status, answer.body) == (403, b"")
    assert target.is_well()


@pytest.mark.parametrize("path", INFERENCE)
def test_no_inference_from_a_foreign_page(target: Target, path: str) -> None:
    before = target.engine.counters.received
    answer = target.call("POST", path, CHAT, Origin=EVIL, Content_Type="text/plain")
    assert (answer.status, answer.body) == (403, b"")
    assert target.engine.counters.received == before


@pytest.mark.parametrize(
    "page",
    [
        {"Origin": "http://localhost:3000"},
        {"Origin": "app://elsewhere"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ],
)
def test_what_is_the_herds_alone_takes_no_other_page(target: Target, page: dict[str, str]) -> None:
    """Ollama lets every page of this machine in; what Ollama does not have is for ours only."""
    answer = target.call("POST", "/fleet/heartbeat", {}, **page)
    assert (answer.status, answer.body) == (403, b"")
    own = {"Origin": "http://127.0.0.1"}
    assert target.call("POST", "/fleet/heartbeat", {}, **own).status == 401  # asks for the key


def test_a_long_body_of_a_stranger_is_not_read(target: Target) -> None:
    head = b"POST /api/chat HTTP/1.1\r\nHost: evil.example.com\r\nContent-Length: 100000000\r\n\r\n"
    assert target.raw(head).status == 403  # though not one byte of it was sent


def test_pages_stand_in_no_frame_and_run_nothing_foreign(target: Target) -> None:
    for path in ("/dashboard", "/dashboard/api/fleet", "/dashboard/assets/none.js"):
        answer = target.call("GET", path)
        policy = answer.header("content-security-policy")
        assert "frame-ancestors 'none'" in policy, path
        assert "default-src 'self'" in policy
        assert "unsafe" not in policy
        assert answer.header("x-frame-options") == "DENY"
        assert answer.header("x-content-type-options") == "nosniff"


def test_settings_open_the_doors_they_name(tmp_path_factory: pytest.TempPathFactory) -> None:
    env = {
        "HERD_ALLOWED_HOSTS": "herd.example.com",
        "HERD_ALLOWED_ORIGINS": "https://app.example.com",
        "HERD_ALLOWED_CLIENTS": "127.0.0.0/8",
    }
    with Herd(tmp_path_factory.mktemp("open"), env=env).ready() as herd:
        named = {"Host": "herd.example.com", "Origin": "https://app.example.com"}
        answer = herd.call("GET", "/api/tags", headers=named)
        assert answer.status == 200
        assert answer.header("access-control-allow-origin") == "https://app.example.com"
        assert herd.call("GET", "/api/tags", headers={"Host": "evil.example.com"}).status == 403


def test_clients_outside_of_the_named_networks_are_refused(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("closed")
    with Herd(folder, env={"HERD_ALLOWED_CLIENTS": "10.99.0.0/16"}) as herd:
        herd.wait_status_code(403)
        for method, path in (("GET", "/api/tags"), ("POST", "/api/chat"), ("GET", "/dashboard")):
            answer = herd.call(method, path, CHAT if method == "POST" else None)
            assert answer.status == 403
            assert "allowed_clients" in answer.body.decode()
