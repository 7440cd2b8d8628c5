"""Settings changed while the router runs: at once, for good, on record, and only where sound."""

from pathlib import Path
from typing import Any

import pytest

from tests.e2e.processes import Herd
from tests.fakes.raw import Response
from tests.web.fleet import fleet

SETTINGS = "/dashboard/api/settings"


def put(herd: Herd, name: str, *, value: object, **headers: str) -> Response:
    return herd.call("PUT", f"{SETTINGS}/{name}", {"value": value}, headers)


def setting(herd: Herd, name: str) -> dict[str, Any]:
    answer = herd.call("GET", SETTINGS)
    assert answer.status == 200, answer.body
    found: dict[str, Any] = next(s for s in answer.json()["settings"] if s["name"] == name)
    return found


def changes(herd: Herd) -> list[tuple[str, str, str]]:
    answer = herd.call("GET", f"{SETTINGS}/changes")
    return [(c["name"], c["before"], c["after"]) for c in answer.json()["changes"]]


def copied(herd: Herd) -> int:
    body = {"source": "qwen3:8b", "destination": "copy"}
    return herd.call("POST", "/api/copy", body).status


def answered(herd: Herd) -> int:
    body = {"model": "nobody-has-it", "prompt": "x", "fallback_models": ["qwen3:8b"]}
    return herd.call("POST", "/api/generate", {**body, "stream": False}).status


def test_a_change_counts_at_once_outlives_a_restart_and_is_on_record(tmp_path: Path) -> None:
    with Herd(tmp_path).ready() as herd:
        with fleet(herd):
            assert answered(herd) == 200
            assert copied(herd) == 200
            assert put(herd, "fallbacks", value=False).json()["source"] == "dashboard"
            assert put(herd, "allow_destructive", value=False).status == 200
            assert answered(herd) == 404
            assert copied(herd) == 403
        assert "setting changed" in herd.log()
        herd.terminate()
    with Herd(tmp_path).ready() as herd, fleet(herd):
        assert answered(herd) == 404
        assert copied(herd) == 403
        assert setting(herd, "fallbacks")["configured"] is True
        back = herd.call("DELETE", f"{SETTINGS}/fallbacks").json()
        assert (back["value"], back["source"]) == (True, "default")
        assert answered(herd) == 200
        assert changes(herd) == [
            ("fallbacks", "false", ""),
            ("allow_destructive", "true", "false"),
            ("fallbacks", "true", "false"),
        ]
        who = herd.call("GET", f"{SETTINGS}/changes?limit=1").json()["changes"][0]["who"]
        assert who == "127.0.0.1"


def test_what_was_given_at_the_start_stays(tmp_path: Path) -> None:
    (tmp_path / "router-home").mkdir()
    (tmp_path / "router-home" / "herd.toml").write_text("max_attempts = 2\n")
    with Herd(tmp_path, env={"HERD_HEDGE": "false"}).ready() as herd:
        hedge = setting(herd, "hedge")
        assert (hedge["value"], hedge["source"], hedge["where"]) == (False, "env", "HERD_HEDGE")
        assert hedge["locked"] == "it was set by HERD_HEDGE when the router was started"
        refused = put(herd, "hedge", value=True)
        assert (refused.status, refused.json()["field"]) == (400, "hedge")
        assert setting(herd, "port")["source"] == "flag"
        attempts = setting(herd, "max_attempts")
        assert (attempts["value"], attempts["source"]) == (2, "file")
        assert attempts["where"].endswith("herd.toml")
        assert put(herd, "max_attempts", value=5).json()["value"] == 5
        assert setting(herd, "max_attempts")["configured"] == 2


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("fallbacks", 0, "must be true or false"),
        ("fallbacks", "false", "must be true or false"),
        ("queue_limit", True, "must be a number"),
        ("queue_limit", "5", "must be a number"),
        ("queue_limit", -1, "greater than or equal to 0"),
        ("queue_limit", 1.5, "valid integer"),
        ("trace_retention_days", 0, "greater than or equal to 1"),
        ("queue_timeout_s", 1e300, "less than or equal"),
        ("host", "0.0.0.0", "takes a restart"),
        ("no_such", 1, "there is no setting"),
        ("x" * 5000, 1, "there is no setting"),
        ("queue_limit", None, "must be a number"),
        ("queue_limit", [1], "must be a number"),
    ],
)
def test_a_bad_value_changes_nothing(herd: Herd, name: str, value: object, said: str) -> None:
    answer = put(herd, name, value=value)
    assert answer.status == 400, answer.body
    assert said in answer.json()["error"]
    assert len(answer.json()["error"]) < 500
    assert changes(herd) == []


def test_a_bad_body_changes_nothing(herd: Herd) -> None:
    for body, kind in (
        (b"not json", "application/json"),
        (b'{"value": 1, "more": 2}', "application/json"),
        (b"[1]", "application/json"),
        (b"\xff\xfe", "application/json"),
        (b'{"value": "' + b"x" * 5000 + b'"}', "application/json"),
        (b'{"value": 7}', "text/plain"),
    ):
        head = {"Content-Type": kind}
        answer = herd.call("PUT", f"{SETTINGS}/queue_limit", body, head)
        assert (answer.status, answer.json()["field"]) == (400, "value"), body
    assert setting(herd, "queue_limit")["value"] == 1000


def test_pages_of_others_change_nothing(herd: Herd) -> None:
    assert put(herd, "queue_limit", value=7, Origin="http://evil.example").status == 403
    assert put(herd, "queue_limit", value=7, **{"Sec-Fetch-Site": "cross-site"}).status == 403
    assert setting(herd, "queue_limit")["value"] == 1000


def test_secrets_are_not_shown(herd: Herd) -> None:
    assert setting(herd, "database_url")["value"] == ""
    names = [s["name"] for s in herd.call("GET", SETTINGS).json()["settings"]]
    assert len(names) == len(set(names)) > 35


@pytest.fixture(scope="module")
def herd(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with Herd(tmp_path_factory.mktemp("herd")).ready() as herd:
        yield herd
