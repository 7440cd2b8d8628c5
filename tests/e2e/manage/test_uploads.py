"""Create, blobs, push, accounts and foreign pages, over two nodes."""

import hashlib

import pytest

from tests.e2e.conftest import Pair
from tests.e2e.manage.catalogue import MANAGE, check_same, managed, nodes_with, tags
from tests.e2e.processes import Herd, wait_until
from tests.fakes.manage import ManagedOllama
from tests.fakes.raw import Client, exchange
from tests.fakes.recordings import read
from tests.fakes.replay import parse_response
from tests.fakes.shapes import body_shape


class TestOrigins:
    @pytest.mark.parametrize("body", [{"model": "new:1b"}, {"model": "new:1b", "stream": False}])
    def test_allowed_ones_are_told_so_once(self, fleet: Pair, body: dict[str, object]) -> None:
        origin = "http://localhost:3000"
        answer = fleet.call("POST", "/api/pull", body, headers={"Origin": origin})
        allowed = [v for n, v in answer.headers if n.lower() == "access-control-allow-origin"]
        assert (answer.status, allowed) == (200, [origin])

    def test_foreign_pages_change_nothing(self, fleet: Pair) -> None:
        headers = {"Origin": "http://evil.example"}
        for method, path in (("POST", "/api/pull"), ("DELETE", "/api/delete")):
            answer = fleet.call(method, path, {"model": "tiny"}, headers=headers)
            assert (answer.status, answer.body) == (403, b"")
        assert nodes_with(fleet, "tiny") == ["a", "b"]
        assert all(not managed(fleet, n).calls for n in ("a", "b"))


ON_ONE_NODE = (
    "120_create_from_stream",
    "121_create_from_nostream",
    "122_create_from_unknown",
    "123_create_no_from",
    "124_create_bad_files",
    "125_create_bad_files_nostream",
    "126_create_missing_blob",
    "127_create_no_model",
    "130_pull_refused_stream",
    "131_pull_refused_nostream",
    "132_pull_no_internet_default_registry",
    "133_pull_no_internet_nostream",
    "134_pull_insecure_http",
    "137_push_refused",
    "138_push_unknown",
    "400_pull_ok_stream_loopback_registry",
    "401_pull_again_nostream",
    "402_pull_unknown_404_stream",
    "403_pull_unknown_404_nostream",
    "408a_pull_resume",
    "408b_pull_same_at_once",
)


@pytest.mark.parametrize("name", ON_ONE_NODE)
def test_recorded_answers_pass_unchanged(fleet: Pair, name: str) -> None:
    """On a named node the recorded bytes of a real Ollama come out as they went in."""
    engine = managed(fleet, "a")
    engine.say(read(MANAGE / f"{name}.txt"))
    check_same(fleet, name, b"X-Herd-Node: a\r\n")


@pytest.mark.parametrize("name", ["121_create_from_nostream", "120_create_from_stream"])
def test_recorded_answers_of_two_nodes_are_one(fleet: Pair, name: str) -> None:
    for node in ("a", "b"):
        managed(fleet, node).say(read(MANAGE / f"{name}.txt"))
    check_same(fleet, name)


class TestCreateAndBlobs:
    DATA = b"hello blob" * 100

    @property
    def digest(self) -> str:
        return "sha256:" + hashlib.sha256(self.DATA).hexdigest()

    def test_create_from_goes_where_the_source_is(self, fleet: Pair) -> None:
        answer = fleet.call("POST", "/api/create", {"model": "made", "from": "tiny", "system": "x"})
        assert answer.lines()[-1] == {"status": "success"}
        assert nodes_with(fleet, "made") == ["a", "b"]
        assert "made:latest" in tags(fleet)
        answer = fleet.call("POST", "/api/create", {"model": "made2", "from": "only-b"})
        assert nodes_with(fleet, "made2") == ["b"]

    def test_upload_and_create_meet_on_one_node(self, fleet: Pair) -> None:
        for engine in fleet.engines:
            assert isinstance(engine, ManagedOllama)
            engine.blobs.clear()
        path = f"/api/blobs/{self.digest}"
        missing = fleet.call("HEAD", path)
        assert (missing.status, missing.header("content-length")) == (404, "102")
        assert fleet.call("POST", path, self.DATA).status == 201
        assert fleet.call("HEAD", path).status == 200
        assert fleet.call("POST", path, self.DATA).status == 200
        body = {"model": "built", "files": {"x.gguf": self.digest}, "stream": False}
        answer = fleet.call("POST", "/api/create", body)
        assert (answer.status, answer.json()) == (200, {"status": "success"})
        (node,) = nodes_with(fleet, "built")
        assert self.digest in managed(fleet, node).blobs
        assert "built:latest" in tags(fleet)

    def test_create_finds_the_files_on_whatever_node(self, fleet: Pair) -> None:
        digest = "sha256:" + "5" * 64
        for name in ("a", "b"):
            managed(fleet, name).blobs.pop(digest, None)
        managed(fleet, "b").blobs[digest] = 10
        body = {"model": "found", "files": {"x.gguf": digest}}
        assert fleet.call("POST", "/api/create", body).lines()[-1] == {"status": "success"}
        assert nodes_with(fleet, "found") == ["b"]

    def test_files_that_are_nowhere(self, fleet: Pair) -> None:
        recording = read(MANAGE / "126_create_missing_blob.txt")
        real = parse_response(recording.response)
        answer = exchange(fleet.port, recording.request)
        content_type = real.header("content-type")
        assert (answer.status, answer.header("content-type")) == (200, content_type)
        assert body_shape(content_type, answer.body) == body_shape(content_type, real.body)
        assert answer.lines()[-1]["error"].endswith("no such file or directory")

    def test_chunked_upload(self, fleet: Pair) -> None:
        for name in ("a", "b"):
            managed(fleet, name).blobs.clear()
        check_same(fleet, "116_blob_post_chunked")

    def test_wrong_digest(self, fleet: Pair) -> None:
        check_same(fleet, "114_blob_post_wrong_digest")

    def test_bad_digest(self, fleet: Pair) -> None:
        recording = read(MANAGE / "115_blob_head_bad_digest.txt")
        real = parse_response(recording.response, "HEAD")
        answer = exchange(fleet.port, recording.request)
        assert answer.status == real.status == 400
        assert answer.header("content-length") == real.header("content-length")
        assert fleet.call("POST", "/api/blobs/xyz", b"x").json() == {
            "error": "invalid digest format"
        }

    def test_a_cut_upload_is_cut_at_the_engine(self, fleet: Pair) -> None:
        engine = managed(fleet, "a")
        before = engine.server.accepted
        client = Client(fleet.port)
        client.send(
            f"POST /api/blobs/{self.digest} HTTP/1.1\r\nHost: x\r\nX-Herd-Node: a\r\n"
            "Content-Length: 1000000\r\n\r\nbeginning".encode()
        )
        wait_until(lambda: engine.server.accepted > before, 5, "the upload to begin")
        client.close()
        engine.wait_for(lambda _c: engine.calls["upload cut"] == 1, 5, "the cut upload")

    def test_memory_does_not_grow_with_an_upload(self, fleet: Pair) -> None:
        data = b"x" * (64 * 2**20)
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        before = fleet.herd.rss_bytes()
        with Client(fleet.port, timeout_s=60) as client:
            client.ask("POST", f"/api/blobs/{digest}", data)
            grown = fleet.herd.rss_bytes() - before
            assert client.read().status == 201
        assert grown < 32 * 2**20
        assert fleet.herd.rss_bytes() - before < 32 * 2**20


class TestPush:
    def test_from_one_node(self, fleet: Pair) -> None:
        answer = fleet.call("POST", "/api/push", {"model": "tiny", "stream": False})
        assert (answer.status, answer.json()) == (200, {"status": "success"})
        assert sum(managed(fleet, n).calls["push"] for n in ("a", "b")) == 1

    def test_unknown(self, fleet: Pair) -> None:
        recording = read(MANAGE / "138_push_unknown.txt")
        real = parse_response(recording.response)
        answer = exchange(fleet.port, recording.request)
        content_type = real.header("content-type")
        assert answer.header("content-type") == content_type
        assert body_shape(content_type, answer.body) == body_shape(content_type, real.body)


class TestAccountsAndTheRest:
    def test_accounts_belong_to_nodes(self, fleet: Pair) -> None:
        me = fleet.call("POST", "/api/me")
        assert me.status == 401
        assert me.json()["error"].startswith("unauthorized")
        assert fleet.call("POST", "/api/signout").status == 403
        assert fleet.call("DELETE", "/api/user/keys/abc").status == 403
        named = fleet.call("POST", "/api/me", headers={"X-Herd-Node": "a"})
        assert named.body == b"404 page not found"  # the fake's own words: it was asked

    def test_cloud_is_off(self, fleet: Pair) -> None:
        answer = fleet.call("POST", "/api/experimental/web_search", {"query": "x"})
        error = "ollama cloud is disabled: web search is unavailable"
        assert (answer.status, answer.json()) == (403, {"error": error})

    def test_count_tokens(self, fleet: Pair) -> None:
        messages = [{"role": "user", "content": "x" * 400}]
        body = {"model": "tiny", "messages": messages}
        answer = fleet.call("POST", "/v1/messages/count_tokens", body)
        assert answer.status == 200
        assert 100 <= answer.json()["input_tokens"] <= 115
        bad = fleet.call("POST", "/v1/messages/count_tokens", {"model": "tiny"})
        assert (bad.status, bad.json()["error"]["message"]) == (400, "messages is required")

    @pytest.mark.parametrize(
        ("method", "path", "allow"),
        [
            ("GET", "/api/pull", "POST"),
            ("GET", "/api/delete", "DELETE"),
            ("PUT", "/api/blobs/sha256:x", "HEAD, POST"),
        ],
    )
    def test_wrong_methods(self, fleet: Pair, method: str, path: str, allow: str) -> None:
        answer = fleet.call(method, path)
        assert (answer.status, answer.body) == (405, b"405 method not allowed")
        assert sorted(answer.header("allow").split(", ")) == allow.split(", ")


def test_switched_off(tmp_path: object, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("off")
    with Herd(folder, env={"HERD_ALLOW_DESTRUCTIVE": "false"}).ready() as herd:
        for method, path in (
            ("POST", "/api/pull"),
            ("POST", "/api/push"),
            ("POST", "/api/create"),
            ("POST", "/api/copy"),
            ("DELETE", "/api/delete"),
            ("POST", "/api/blobs/sha256:" + "0" * 64),
        ):
            answer = herd.call(method, path, {"model": "tiny"})
            assert answer.status == 403
            assert "allow_destructive" in answer.json()["error"]
        assert herd.call("POST", "/api/show", {"model": "x"}).status == 404
        assert herd.call("POST", "/api/show", {"model": "!!"}).status == 400


def test_without_nodes(tmp_path_factory: pytest.TempPathFactory) -> None:
    with Herd(tmp_path_factory.mktemp("empty")).ready() as herd:
        pull = herd.call("POST", "/api/pull", {"model": "tiny"})
        assert (pull.status, pull.header("retry-after")) == (503, "2")
        assert "no node with a running Ollama" in pull.json()["error"]
        assert herd.call("DELETE", "/api/delete", {"model": "tiny"}).status == 404
        assert herd.call("HEAD", "/api/blobs/sha256:" + "0" * 64).status == 503
