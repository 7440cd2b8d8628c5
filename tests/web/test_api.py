"""The dashboard's JSON and stream of changes at a real router; no browser needed."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from ollama_herd.dashboard.assets import NOT_BUILT, load
from tests.e2e.processes import Herd, wait_until
from tests.pace import in_time
from tests.web.fleet import fleet


@pytest.fixture(scope="module")
def herd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Herd]:
    """Two nodes; a request was served and one refused."""
    with Herd(tmp_path_factory.mktemp("herd")).ready() as herd, fleet(herd):
        body = {"model": "qwen3:32b", "prompt": "secret words", "stream": False}
        assert herd.call("POST", "/api/generate", body).status == 200
        assert herd.call("POST", "/api/generate", {"model": "nope", "prompt": "x"}).status == 404
        wait_until(lambda: len(traces(herd)["traces"]) == 2, 10, "traces to be written")
        yield herd


def traces(herd: Herd, query: str = "") -> dict[str, Any]:
    answer = herd.call("GET", f"/dashboard/api/traces{query}")
    assert answer.status == 200, answer.body
    page: dict[str, Any] = answer.json()
    return page


class Events:
    """A subscriber on a socket of its own."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self._file = self._socket.makefile("rb")
        self._socket.sendall(b"GET /dashboard/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        self.status = int(self._file.readline().split()[1])
        while self._file.readline() != b"\r\n":
            pass

    def next(self) -> tuple[str, dict[str, Any]] | None:
        """Kind and content of the next event, None at the end."""
        kind = ""
        while line := self._file.readline():
            if line.startswith(b"event: "):
                kind = line[7:].decode().strip()
            elif line.startswith(b"data: "):
                return kind, json.loads(line[6:])
        return None

    def close(self) -> None:
        self._file.close()
        self._socket.close()


def test_fleet_is_that_of_the_fleet_status(herd: Herd) -> None:
    ours = herd.call("GET", "/dashboard/api/fleet").json()
    assert [n["name"] for n in ours["nodes"]] == [n["name"] for n in herd.status()["nodes"]]


def test_lists_tell_what_was_predicted_beside_what_came_of_it(herd: Herd) -> None:
    refused, served = traces(herd)["traces"]
    assert served["predicted_ttft_ms"] > 0
    assert served["predicted_total_ms"] >= served["predicted_ttft_ms"]
    assert refused["predicted_ttft_ms"] is None


def test_tags_are_kept_and_filtered(herd: Herd) -> None:
    """From the header, and from what OpenAI's clients send."""
    told = {"user": "ann", "metadata": {"team": "search"}, "messages": []}
    labels = {"X-Herd-Tags": "nightly, a b"}
    for model, body, headers in (
        ("tag-1", {}, labels),
        ("tag-2", {**told, "messages": [{"role": "user", "content": "x"}]}, None),
    ):
        path = "/v1/chat/completions" if body else "/api/generate"
        assert herd.call("POST", path, {"model": model, **body}, headers).status == 404
    for tag, model in (("nightly", "tag-1"), ("a b", "tag-1"), ("user=ann", "tag-2")):
        query = f"?tag={quote(tag)}"
        wait_until(lambda q=query: traces(herd, q)["traces"] != [], 10, f"the trace of {tag}")
        assert [t["model_asked"] for t in traces(herd, query)["traces"]] == [model]
    assert traces(herd, "?tag=team%3Dsearch")["traces"][0]["tags"] == ["user=ann", "team=search"]
    assert traces(herd, "?tag=night")["traces"] == []


def test_a_prediction_stands_beside_what_came(herd: Herd) -> None:
    row = traces(herd, "?status=ok")["traces"][0]
    one = herd.call("GET", f"/dashboard/api/traces/{row['request_id']}").json()
    assert 0 < one["predicted_ttft_ms"] <= one["predicted_total_ms"]
    assert one["reason"].endswith(f"candidates {one['decision']['candidate_count']}")
    assert one["earlier"] == []


def test_traces_are_filtered_and_paged(herd: Herd) -> None:
    assert [t["status"] for t in traces(herd, "?status=ok")["traces"]] == [200]
    assert {t["status"] for t in traces(herd, "?status=client_error")["traces"]} == {404}
    assert len(traces(herd, "?model=qwen3:32b")["traces"]) == 1
    assert len(traces(herd, "?model=Qwen3:32B")["traces"]) == 1  # a name as Ollama reads it
    assert traces(herd, "?from=2026-01-31T12:00:00+01:00")["traces"]  # + is a space in a URL
    served = traces(herd, "?status=ok")["traces"][0]
    name = next(n["name"] for n in herd.status()["nodes"] if n["node_id"] == served["node_id"])
    assert len(traces(herd, f"?node={name}")["traces"]) == 1
    assert traces(herd, "?client=10.9.8.7")["traces"] == []
    assert traces(herd, "?until=5")["traces"] == []
    first = traces(herd, "?limit=1")
    second = traces(herd, f"?limit=100&before={first['next']}")
    ids = [page["traces"][0]["request_id"] for page in (first, second)]
    assert len(set(ids)) == 2
    assert second["next"] == ""


def test_one_trace_explains_itself(herd: Herd) -> None:
    row = traces(herd, "?status=ok")["traces"][0]
    answer = herd.call("GET", f"/dashboard/api/traces/{row['request_id']}")
    trace = answer.json()
    assert trace["row"] == row
    candidates = trace["decision"]["candidates"]
    assert {c["node_id"] for c in candidates} == {"id-0", "id-1"}
    costs = [c["cost"] for c in candidates]
    assert costs[0]["total_ms"] <= costs[1]["total_ms"]
    for cost in costs:
        parts = sum(value for name, value in cost.items() if name != "total_ms")
        assert parts == pytest.approx(cost["total_ms"], rel=1e-3, abs=0.01)
    assert [a["outcome"] for a in trace["attempts"]] == ["completed"]
    assert b"secret words" not in answer.body


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("traces?status=sad", "status"),
        ("traces?from=yesterday", "from"),
        ("traces?from=2026-01-31T12:00:00", "from"),
        ("traces?from=9&until=9", "from"),
        ("traces?until=1795400697000", "until"),
        ("traces?limit=-1", "limit"),
        ("traces?limit=1000000000000", "limit"),
        ("traces?limit=1&limit=2", "limit"),
        ("traces?before=nonsense", "before"),
        ("traces?colour=red", "colour"),
        ("traces?model=" + "x" * 1000, "model"),
        ("trends?step=week", "step"),
        ("trends?step=minute&from=0", "from"),
        ("trends?model=a&node=b", "node"),
    ],
)
def test_bad_filters_name_the_field(herd: Herd, path: str, field: str) -> None:
    answer = herd.call("GET", f"/dashboard/api/{path}")
    assert answer.status == 400
    assert answer.json()["field"] == field
    assert field in answer.json()["error"]


def test_unknown_request(herd: Herd) -> None:
    answer = herd.call("GET", "/dashboard/api/traces/nope")
    assert answer.status == 404
    assert "kept" in answer.json()["error"]


def test_trends_count_what_was_asked(herd: Herd) -> None:
    def requests() -> int:
        answer = herd.call("GET", "/dashboard/api/trends?step=minute").json()
        return sum(point["requests"] for point in answer["points"])

    wait_until(lambda: requests() == 2, 15, "trends to be written")


def test_without_traces_it_says_so(tmp_path: Path) -> None:
    with Herd(tmp_path, env={"HERD_TRACES": "false"}).ready() as herd:
        answer = herd.call("GET", "/dashboard/api/traces")
        assert answer.status == 503
        assert "HERD_TRACES" in answer.json()["error"]
        chat = {"model": "unknown", "messages": []}
        assert herd.call("POST", "/api/chat", chat).status == 404
        events = Events(herd.port)
        first = events.next()
        events.close()
        assert first is not None
        assert first[1]["set"]["traces"] is None
        assert first[1]["set"]["totals"]["requests"] == 1  # counted all the same


@pytest.mark.parametrize("path", ["/dashboard", "/dashboard/api/fleet", "/dashboard/assets/x.js"])
def test_every_answer_is_under_the_policy(herd: Herd, path: str) -> None:
    answer = herd.call("GET", path)
    assert "default-src 'self'" in answer.header("content-security-policy")
    assert "unsafe" not in answer.header("content-security-policy")
    assert answer.header("x-content-type-options") == "nosniff"


def test_other_pages_may_not_ask(herd: Herd) -> None:
    for path in ("/dashboard", "/dashboard/api/traces", "/dashboard/events"):
        assert herd.call("GET", path, headers={"Origin": "https://evil.example"}).status == 403


def test_the_root_stays_that_of_ollama(herd: Herd) -> None:
    answer = herd.call("GET", "/", headers={"Accept": "text/html"})
    assert answer.body == b"Ollama is running"


def test_paths_stay_inside(herd: Herd) -> None:
    for name in ("..%2findex.html", "%2e%2e%2f%2e%2e%2froutes.py", "../routes.py", "x\\y"):
        assert herd.call("GET", f"/dashboard/assets/{name}").status in (301, 307, 404)


def test_pages_that_were_not_built(tmp_path: Path) -> None:
    assert load(tmp_path) == {}
    assert "make web" in NOT_BUILT


def test_built_pages_are_cached_by_name(tmp_path: Path) -> None:
    (tmp_path / "assets").mkdir()
    (tmp_path / "index.html").write_text("page")
    (tmp_path / "assets" / "a-1.js").write_text("script")
    files = load(tmp_path)
    assert files["assets/a-1.js"].is_hashed
    assert files["assets/a-1.js"].content_type.startswith("text/javascript")
    assert not files["index.html"].is_hashed


def test_events_begin_with_everything_and_follow(herd: Herd) -> None:
    events = Events(herd.port)
    assert events.status == 200
    first = events.next()
    assert first is not None
    kind, snapshot = first
    assert kind == "snapshot"
    assert {"totals", "queue", "traces", "node:id-0", "engines:id-0"} <= snapshot["set"].keys()
    second = events.next()
    assert second is not None
    kind, delta = second
    assert kind == "delta"
    assert delta["seq"] == snapshot["seq"] + 1
    assert "engines:id-0" not in delta["set"]  # heartbeats bring vitals, the models stay
    events.close()


def test_a_stopping_router_does_not_wait_for_dashboards(tmp_path: Path) -> None:
    with Herd(tmp_path).ready() as herd:
        followers = [Events(herd.port) for _ in range(50)]
        for follower in followers:
            assert follower.next() is not None
        code, took_s = herd.terminate()
        assert code == 0
        assert in_time(took_s, 3)
        for follower in followers:
            assert follower.next() is None
            follower.close()
        assert "Traceback" not in herd.log()
