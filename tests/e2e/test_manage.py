"""The calls that manage models, over two nodes: each answers as one Ollama would."""

import hashlib
import json
from collections.abc import Iterator

import pytest

from ollama_herd import clock
from tests.e2e.conftest import Pair
from tests.e2e.processes import Herd, Node, wait_until
from tests.fakes.manage import ManagedOllama, Pace
from tests.fakes.models import FakeModel, model, recorded_models
from tests.fakes.raw import Client, exchange
from tests.fakes.recordings import OLLAMA, read
from tests.fakes.replay import parse_response
from tests.fakes.shapes import body_shape
from tests.fakes.state import Fault, Settings

MANAGE = OLLAMA.parent / "ollama_manage"
NEW = model("new:1b", size_bytes=4000)


def catalogue(own: str) -> list[FakeModel]:
    return [*recorded_models(), model(own)]


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("manage")
    settings = Settings(is_frozen=True, num_parallel=4)
    first = ManagedOllama(catalogue("only-a"), registry=[NEW], settings=settings)
    second = ManagedOllama(catalogue("only-b"), registry=[NEW], settings=settings)
    with first.in_thread(), second.in_thread(), Herd(folder).ready() as herd:
        url = f"http://127.0.0.1:{herd.port}"
        with (
            Node(folder, "a", url, [first.url]) as node_a,
            Node(folder, "b", url, [second.url]) as node_b,
        ):
            herd.wait_models("tiny:latest", "only-a:latest", "only-b:latest")
            yield Pair(herd, (node_a, node_b), (first, second))


@pytest.fixture
def fleet(standing: Pair) -> Iterator[Pair]:
    """Both engines as at the start, and the router knows it."""
    changed = False
    for engine, own in zip(standing.engines, ("only-a", "only-b"), strict=True):
        assert isinstance(engine, ManagedOllama)
        engine.reset(Settings(is_frozen=True, num_parallel=4))
        engine.pace = Pace()
        engine.refuses.clear()
        engine.forget_recorded()
        if engine.models != {m.key: m for m in catalogue(own)}:
            changed = True
            engine.stock(catalogue(own))
    if changed:  # after a change the router reads the lists of the engines it has changed
        for node in ("a", "b"):
            made = {"model": "z", "from": "tiny-b", "node": node, "stream": False}
            assert standing.call("POST", "/api/create", made).json() == {"status": "success"}
        assert standing.call("DELETE", "/api/delete", {"model": "z"}).status == 200
    for engine in standing.engines:
        assert isinstance(engine, ManagedOllama)
        engine.calls.clear()
        engine.state.requests.clear()
    yield standing
    standing.herd.check_alive()


def tags(pair: Pair) -> set[str]:
    return {entry["name"] for entry in pair.call("GET", "/api/tags").json()["models"]}


def managed(pair: Pair, name: str) -> ManagedOllama:
    engine = pair.engine(name)
    assert isinstance(engine, ManagedOllama)
    return engine


def nodes_with(pair: Pair, name: str) -> list[str]:
    return [n for n in ("a", "b") if model(name).key in pair.engine(n).models]


class TestShow:
    def test_unknown_and_unnamed_as_recorded(self, fleet: Pair) -> None:
        for name in ("015_show_unknown", "016_show_no_model", "017_show_get_wrong_method"):
            recording = read(OLLAMA / f"{name}.txt")
            real = parse_response(recording.response)
            answer = exchange(fleet.port, recording.request)
            assert (answer.status, answer.body) == (real.status, real.body)
            assert answer.header("content-type") == real.header("content-type")
            assert answer.header("allow") == real.header("allow")

    @pytest.mark.parametrize("name", ["012_show", "014_show_name_field"])
    def test_bytes_are_the_engines(self, fleet: Pair, name: str) -> None:
        recording = read(OLLAMA / f"{name}.txt")
        answer = exchange(fleet.port, recording.request)
        direct = fleet.direct("a", "POST", "/api/show", recording.body)
        assert (answer.status, answer.body) == (200, direct.body)
        assert answer.header("content-type") == "application/json; charset=utf-8"
        assert answer.header("x-herd-node") in ("a", "b")

    def test_asked_once_however_often_clients_ask(self, fleet: Pair) -> None:
        fleet.call("POST", "/api/show", {"model": "tiny-b"})
        before = [managed(fleet, n).calls["show"] for n in ("a", "b")]
        for body in ({"model": "tiny-b"}, {"name": "TINY-B:latest"}, {"model": "library/tiny-b"}):
            assert fleet.call("POST", "/api/show", body).status == 200
        assert [managed(fleet, n).calls["show"] for n in ("a", "b")] == before

    def test_verbose_and_copilot_are_asked_for(self, fleet: Pair) -> None:
        fleet.call("POST", "/api/show", {"model": "tiny-b"})
        before = sum(managed(fleet, n).calls["show"] for n in ("a", "b"))
        fleet.call("POST", "/api/show", {"model": "tiny-b", "verbose": True})
        copilot = {"User-Agent": "GitHubCopilotChat/0.1"}
        fleet.call("POST", "/api/show", {"model": "tiny-b"}, headers=copilot)
        assert sum(managed(fleet, n).calls["show"] for n in ("a", "b")) == before + 2

    def test_a_failing_node_is_passed_by(self, fleet: Pair) -> None:
        managed(fleet, "a").refuses["/api/show"] = (500, "disk error")
        answer = fleet.call("POST", "/api/show", {"model": "tiny", "verbose": True})
        assert (answer.status, answer.header("x-herd-node")) == (200, "b")

    def test_never_loads(self, fleet: Pair) -> None:
        fleet.call("POST", "/api/show", {"model": "tiny-c:270m"})
        assert all(engine.counters.loads == 0 for engine in fleet.engines)


class TestCopyAndDelete:
    def test_copy_then_delete_everywhere(self, fleet: Pair) -> None:
        for name, listed, holders in (
            ("100_copy", True, ["a", "b"]),
            ("104_delete", False, []),
        ):
            recording = read(OLLAMA / f"{name}.txt")
            real = parse_response(recording.response)
            answer = exchange(fleet.port, recording.request)
            assert (answer.status, answer.body) == (real.status, b"")
            assert answer.header("content-type") == real.header("content-type") == ""
            assert answer.header("content-length") == "0"
            assert ("copied:v1" in tags(fleet)) is listed
            assert nodes_with(fleet, "copied:v1") == holders

    def test_a_copy_can_be_used_at_once(self, fleet: Pair) -> None:
        fleet.call("POST", "/api/copy", {"source": "tiny", "destination": "mine"})
        body = {"model": "mine", "prompt": "x", "stream": False}
        assert fleet.call("POST", "/api/generate", body).status == 200
        assert fleet.call("DELETE", "/api/delete", {"model": "mine"}).status == 200
        assert fleet.call("POST", "/api/generate", body).status == 404

    def test_what_is_deleted_does_not_come_back_with_a_report(self, fleet: Pair) -> None:
        """The agents read their engines' lists less often than they report."""
        fleet.call("DELETE", "/api/delete", {"model": "tiny2"})
        for context in (1024, 2048, 3072):
            options = {"num_ctx": context}
            fleet.call("POST", "/api/generate", {"model": "tiny", "options": options})
            seen: list[float] = []
            wait_until(lambda seen=seen: _reported_again(fleet, seen), 10, "another report")
            assert "tiny2:latest" not in tags(fleet)

    @pytest.mark.parametrize(
        "name",
        ["101_copy_unknown", "102_copy_bad_name", "105_delete_unknown", "106_delete_name_field"],
    )
    def test_refusals_as_recorded(self, fleet: Pair, name: str) -> None:
        recording = read(OLLAMA / f"{name}.txt")
        real = parse_response(recording.response)
        answer = exchange(fleet.port, recording.request)
        assert (answer.status, answer.body) == (real.status, real.body)
        assert answer.header("content-type") == real.header("content-type")

    def test_only_the_holder_is_asked(self, fleet: Pair) -> None:
        answer = fleet.call("DELETE", "/api/delete", {"name": "only-b"})
        assert (answer.status, answer.header("x-herd-node")) == (200, "b")
        assert managed(fleet, "a").calls["delete"] == 0

    def test_a_node_can_be_named(self, fleet: Pair) -> None:
        answer = fleet.call("DELETE", "/api/delete", {"model": "tiny", "node": "B"})
        assert answer.status == 200
        assert nodes_with(fleet, "tiny") == ["a"]
        assert "tiny:latest" in tags(fleet)

    def test_partly_failed(self, fleet: Pair) -> None:
        managed(fleet, "b").refuses["/api/delete"] = (500, "read-only file system")
        answer = fleet.call("DELETE", "/api/delete", {"model": "tiny"})
        assert answer.status == 500
        error = "deleted on a; failed on b: read-only file system"
        assert answer.json() == {"error": error}
        assert "tiny:latest" in tags(fleet)

    def test_a_node_that_had_lost_it_does_not_matter(self, fleet: Pair) -> None:
        managed(fleet, "b").refuses["/api/delete"] = (404, "model 'tiny' not found")
        assert fleet.call("DELETE", "/api/delete", {"model": "tiny"}).status == 200

    def test_delete_needs_the_method_delete(self, fleet: Pair) -> None:
        recording = read(OLLAMA / "107_delete_post_wrong_method.txt")
        real = parse_response(recording.response)
        answer = exchange(fleet.port, recording.request)
        assert (answer.status, answer.body) == (real.status, real.body)
        assert answer.header("allow") == real.header("allow")


def _reported_again(pair: Pair, seen: list[float]) -> bool:
    node = pair.herd.node("a")
    assert node is not None
    seen.append(float(node["last_report_age_s"]))
    return len(seen) > 2 and seen[-1] < seen[-2]


class TestPull:
    @pytest.mark.parametrize("stream", [True, False])
    def test_a_new_model_gets_one_home(self, fleet: Pair, *, stream: bool) -> None:
        answer = fleet.call("POST", "/api/pull", {"model": "new:1b", "stream": stream})
        assert answer.status == 200
        assert answer.lines()[-1] == {"status": "success"}
        wanted = "application/x-ndjson" if stream else "application/json"
        assert answer.header("content-type") == wanted
        assert "new:1b" in tags(fleet)
        assert nodes_with(fleet, "new:1b") == [answer.header("x-herd-node")]

    def test_the_named_node(self, fleet: Pair) -> None:
        for headers, body in (({"X-Herd-Node": "b"}, {}), ({}, {"node": "b"})):
            call = {"model": "new:1b", "stream": False, **body}
            answer = fleet.call("POST", "/api/pull", call, headers=headers)
            assert (answer.status, answer.header("x-herd-node")) == (200, "b")
        sent = [r for r in fleet.engine("b").state.requests if r[1] == "/api/pull"]
        assert all(json.loads(r[3]) == {"model": "new:1b", "stream": False} for r in sent)
        assert all(n.lower() != "x-herd-node" for r in sent for n, _ in r[2])

    def test_an_unknown_node(self, fleet: Pair) -> None:
        answer = fleet.call("POST", "/api/pull", {"model": "new:1b", "node": "mars"})
        assert answer.status == 404
        assert answer.json() == {"error": "there is no node 'mars'; the herd knows: a, b"}

    def test_update_goes_to_all_that_have_it_with_one_progress(self, fleet: Pair) -> None:
        for name in ("a", "b"):
            engine = managed(fleet, name)
            engine.registry["tiny:latest"] = model("tiny", size_bytes=8000)
        answer = fleet.call("POST", "/api/pull", {"model": "tiny"})
        lines = answer.lines()
        assert sorted(answer.header("x-herd-node").split(", ")) == ["a", "b"]
        assert [line for line in lines if line == {"status": "success"}] == lines[-1:]
        done = [line.get("completed", 0) for line in lines if "digest" in line]
        assert (done, done[-1]) == (sorted(done), 8000)
        plain = [line["status"] for line in lines if "digest" not in line]
        assert plain == [
            "pulling manifest",
            "verifying sha256 digest",
            "writing manifest",
            "success",
        ]
        assert all(managed(fleet, n).calls["pull done"] == 1 for n in ("a", "b"))
        digests = {e["name"]: e["digest"] for e in fleet.call("GET", "/api/tags").json()["models"]}
        assert digests["tiny:latest"] == model("tiny").digest

    @pytest.mark.parametrize("stream", [True, False])
    def test_the_failing_node_is_named(self, fleet: Pair, *, stream: bool) -> None:
        for name in ("a", "b"):
            managed(fleet, name).registry["tiny:latest"] = model("tiny", size_bytes=8000)
        managed(fleet, "b").pace = Pace(error="no space left on device")
        answer = fleet.call("POST", "/api/pull", {"model": "tiny", "stream": stream})
        assert answer.status == (200 if stream else 500)
        error = {"error": "node b: no space left on device; done on a"}
        assert answer.lines()[-1] == error
        assert {"status": "success"} not in answer.lines()

    def test_a_client_that_leaves_cancels_it(self, fleet: Pair) -> None:
        engine = managed(fleet, "a")
        engine.pace = Pace(held_at=2)
        client = Client(fleet.port)
        client.ask("POST", "/api/pull", {"model": "new:1b", "node": "a"})
        engine.wait_for(lambda _c: engine.calls["held"] == 1, 10, "the pull to be under way")
        client.close()
        took_s = engine.wait_for(lambda _c: engine.calls["pull cancelled"] == 1, 5, "the cancel")
        assert took_s < 0.5
        assert "new:1b" not in tags(fleet)

    def test_also_when_it_waits_for_the_end(self, fleet: Pair) -> None:
        engine = managed(fleet, "a")
        engine.pace = Pace(held_at=0)
        client = Client(fleet.port)
        client.ask("POST", "/api/pull", {"model": "new:1b", "node": "a", "stream": False})
        engine.wait_for(lambda _c: engine.calls["held"] == 1, 10, "the pull to be under way")
        client.close()
        engine.wait_for(lambda _c: engine.calls["pull cancelled"] == 1, 5, "the cancel")

    def test_a_client_that_left_a_recorded_pull(self, fleet: Pair) -> None:
        recording = read(MANAGE / "407_pull_client_gone.txt")
        lines = parse_response(recording.response, recording.method).body
        engine = managed(fleet, "a")
        engine.say(recording)
        with Client(fleet.port) as client:
            client.ask("POST", "/api/pull", json.loads(recording.body) | {"node": "a"})
            pieces = client.body(client.begin())
            got = b""
            while len(got) < len(lines):
                got += next(pieces)
        assert got == lines
        engine.wait_for(lambda _c: engine.calls["pull cancelled"] == 1, 5, "the cancel")

    def test_an_engine_that_dies_in_the_middle(self, fleet: Pair) -> None:
        for name in ("a", "b"):
            managed(fleet, name).registry["tiny:latest"] = model("tiny", size_bytes=8000)
        engine = managed(fleet, "b")
        engine.pace = Pace(held_at=2)
        with Client(fleet.port) as client:
            client.ask("POST", "/api/pull", {"model": "tiny"})
            engine.wait_for(lambda _c: engine.calls["held"] == 1, 10, "the pull to be under way")
            engine.refuse()
            answer = client.read()
            engine.listen()
        last = answer.lines()[-1]
        assert last["error"].startswith("node b: ")
        assert last["error"].endswith("; done on a")
        fleet.herd.wait_models("only-b:latest")

    def test_it_takes_no_slot(self, fleet: Pair) -> None:
        engine = managed(fleet, "a")
        engine.settings.token_ms = 5
        body = {"model": "only-a", "prompt": "x", "options": {"num_predict": -1}}
        busy = [fleet.open("/api/generate", body) for _ in range(4)]
        engine.wait_for(lambda c: c.in_flight >= 1)
        answer = fleet.call("POST", "/api/pull", {"model": "new:1b", "node": "a"})
        assert answer.lines()[-1] == {"status": "success"}
        for client in busy:
            client.close()
        engine.wait_for(lambda c: c.in_flight == 0)

    @pytest.mark.parametrize("name", ["135_pull_bad_name", "136_pull_empty"])
    def test_refusals_as_recorded(self, fleet: Pair, name: str) -> None:
        check_same(fleet, name)


def running(pair: Pair) -> list[str]:
    return [entry["name"] for entry in pair.call("GET", "/api/ps").json()["models"]]


class TestPs:
    def test_what_was_loaded_or_unloaded_just_now_is_known(self, fleet: Pair) -> None:
        for _ in range(3):
            fleet.call("POST", "/api/generate", {"model": "tiny-b"})
            assert "tiny-b:latest" in running(fleet)
            fleet.call("POST", "/api/generate", {"model": "tiny-b", "keep_alive": 0})
            assert "tiny-b:latest" not in running(fleet)

    def test_entries_are_those_of_the_engine(self, fleet: Pair) -> None:
        fleet.call("POST", "/api/generate", {"model": "only-a"})
        answer = fleet.call("GET", "/api/ps")
        direct = fleet.direct("a", "GET", "/api/ps").json()["models"]
        entry = next(e for e in answer.json()["models"] if e["name"] == "only-a:latest")
        assert entry == next(e for e in direct if e["name"] == "only-a:latest")
        assert answer.header("content-type") == "application/json; charset=utf-8"

    def test_an_engine_that_hangs_is_not_waited_for(self, fleet: Pair) -> None:
        fleet.call("POST", "/api/generate", {"model": "only-b"})
        fleet.engine("a").fail_next(Fault.SILENCE, times=-1, path="/api/ps")
        begun_s = clock.monotonic_s()
        assert "only-b:latest" in running(fleet)
        assert clock.monotonic_s() - begun_s < 2
        fleet.engine("a").heal()
        fleet.herd.wait_models("only-a:latest")


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


def check_same(fleet: Pair, name: str, headers: bytes = b"") -> None:
    recording = read(MANAGE / f"{name}.txt")
    real = parse_response(recording.response, recording.method)
    line, _, rest = recording.request.partition(b"\r\n")
    answer = exchange(fleet.port, line + b"\r\n" + headers + rest)
    assert (answer.status, answer.body) == (real.status, real.body)
    assert answer.header("content-type") == real.header("content-type")
    assert answer.is_whole


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
