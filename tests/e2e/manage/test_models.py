"""Show, copy, delete, pull and ps over two nodes: each answers as one Ollama would."""

import json

import pytest

from ollama_herd import clock
from tests.e2e.conftest import Pair
from tests.e2e.manage.catalogue import MANAGE, check_same, managed, nodes_with, tags
from tests.e2e.processes import wait_until
from tests.fakes.manage import Pace
from tests.fakes.models import model
from tests.fakes.raw import Client, exchange
from tests.fakes.recordings import OLLAMA, read
from tests.fakes.replay import parse_response
from tests.fakes.state import Fault
from tests.pace import in_time


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
        assert in_time(took_s, 0.5)
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
        assert in_time(clock.monotonic_s() - begun_s, 2)
        fleet.engine("a").heal()
        fleet.herd.wait_models("only-a:latest")
