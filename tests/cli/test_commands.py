"""The commands as processes against a real router with fake engines."""

import csv
import http.client
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from ollama_herd.cli import show
from ollama_herd.cli.client import url_of, why
from ollama_herd.config import RouterSettings
from tests.cli.test_start import start
from tests.e2e.processes import Herd, Node, free_port, wait_until
from tests.fakes.manage import ManagedOllama
from tests.fakes.models import model

Ended = subprocess.CompletedProcess[str]


class World:
    """A router, nodes `studio` and `laptop`, and a way to run commands against them."""

    def __init__(self, herd: Herd, home: Path) -> None:
        self.herd = herd
        self.home = home

    def run(self, *arguments: str, **variables: str) -> Ended:
        url = f"http://127.0.0.1:{self.herd.port}"
        return start("herd", *arguments, "--router", url, home=self.home, **variables)

    def json(self, *arguments: str) -> object:
        ended = self.run(*arguments, "--json")
        assert (ended.returncode, ended.stderr) == (0, "")
        found: object = json.loads(ended.stdout)
        return found


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("cli")
    new = [model("qwen3:1.7b", size_bytes=4000)]
    first = ManagedOllama([model("llama3.2"), model("mistral")], registry=new)
    second = ManagedOllama([model("llama3.2")], registry=new)
    with first.in_thread(), second.in_thread(), Herd(folder).ready() as herd:
        url = f"http://127.0.0.1:{herd.port}"
        with (
            Node(folder, "studio", url, [first.url]),
            Node(folder, "laptop", url, [second.url]),
        ):
            herd.wait_models("llama3.2:latest", "mistral:latest")
            herd.wait_node("laptop", "online")
            body = {"model": "llama3.2", "prompt": "secret words", "stream": False}
            told, odd = {"X-Herd-Tags": "nightly"}, {"X-Herd-Tags": "=1+1"}
            assert herd.call("POST", "/api/generate", body, told).status == 200
            assert herd.call("POST", "/api/generate", {"model": "nope"}, odd).status == 404
            wait_until(lambda: b'"nope"' in traces(herd), 10, "the traces")
            yield World(herd, folder / "home")


def traces(herd: Herd) -> bytes:
    return herd.call("GET", "/dashboard/api/traces").body


def test_status(world: World) -> None:
    ended = world.run("status")
    assert ended.returncode == 0
    assert "2 of 2 nodes take requests" in ended.stdout
    assert "studio" in ended.stdout
    assert world.json("status") is not None


def test_models(world: World) -> None:
    ended = world.run("models")
    assert ended.returncode == 0
    line = next(line for line in ended.stdout.splitlines() if "llama3.2:latest" in line)
    assert "laptop, studio" in line
    assert line.split()[1] == "text"
    listed = world.json("models")
    assert isinstance(listed, dict)
    assert {"llama3.2:latest", "mistral:latest"} <= {m["model"]["name"] for m in listed["models"]}


def test_nodes_are_listed_drained_and_taken_back(world: World) -> None:
    for arguments in (["nodes"], ["nodes", "list"]):
        ended = world.run(*arguments)
        assert ended.returncode == 0
        assert {"laptop", "studio"} <= set(ended.stdout.split())
    assert "gets no new requests" in world.run("nodes", "drain", "laptop").stdout
    assert "draining" in world.run("nodes").stdout
    undrained = world.json("nodes", "undrain", "laptop")
    assert isinstance(undrained, dict)
    assert undrained["draining"] is False


def test_two_nodes_get_no_common_name(world: World) -> None:
    ended = world.run("nodes", "rename", "studio", "laptop")
    assert ended.returncode == 1
    assert "another node is called 'laptop'" in ended.stderr
    assert world.run("nodes", "rename", "studio", "studio").returncode == 0
    assert world.run("nodes", "rename", "studio", "").returncode == 0


def test_a_node_that_is_there_is_not_forgotten(world: World) -> None:
    ended = world.run("nodes", "forget", "laptop", "--yes")
    assert ended.returncode == 1
    assert "still reports" in ended.stderr
    unasked = world.run("nodes", "forget", "laptop")
    assert unasked.returncode == 2
    assert "--yes" in unasked.stderr


def test_health(world: World) -> None:
    ended = world.run("health", "--json")
    overall = json.loads(ended.stdout)["overall"]
    assert ended.returncode == (1 if overall == "critical" else 0)
    shown = world.run("health").stdout
    assert (shown.split()[0] == overall) is (overall != "ok")
    assert "checks found nothing wrong" in shown


def test_tables_leave_columns_out_before_they_break_words() -> None:
    def shown(width: int) -> str:
        console = Console(file=io.StringIO(), width=width)
        table = show.table("node", "client", "total>", "request")
        show.row(table, ("studio", "192.168.1.100", "143 ms", "0aa74a48-3"))
        with console.capture() as said:
            console.print(show.fitted(table, ("client", "request"), console))
        return said.get()

    assert all(word in shown(80) for word in ("192.168.1.100", "143 ms", "0aa74a48-3"))
    assert "192." not in shown(40)
    assert all(word in shown(40) for word in ("studio", "143 ms", "0aa74a48-3"))
    assert all(word in shown(20) for word in ("studio", "143 ms", "total"))
    assert "request" not in shown(20)


def test_nothing_to_list_is_said(world: World) -> None:
    assert "no request that matches" in world.run("traces", "--model", "never-asked").stdout
    assert "herd pull never-asked" in world.run("explain", "never-asked").stdout


def test_traces_are_filtered(world: World) -> None:
    listed = world.run("traces", "--since", "1h", "--tag", "nightly")
    assert listed.returncode == 0
    assert "llama3.2:latest" in listed.stdout
    assert "nope" not in listed.stdout
    assert "secret words" not in listed.stdout
    failed = world.run("traces", "--status", "failed", "--error", "unknown", "--json")
    rows = [json.loads(line) for line in failed.stdout.splitlines()]
    assert [row["model_asked"] for row in rows] == ["nope"]
    one = world.run("traces", rows[0]["request_id"])
    assert json.loads(one.stdout)["row"]["status"] == 404
    assert world.run("traces", "--model", "llama3.2").stdout == (
        world.run("traces", "--model", "llama3.2:latest").stdout
    )
    assert "llama3.2:latest" in world.run("traces", "--model", "llama3.2").stdout
    wrong = world.run("traces", "--status", "sad")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "--status = 'sad' is none: choose one of ok, " in wrong.stderr


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--since", "yesterday"], "--since = 'yesterday'"),
        (["--since", "2026-01-31T12:00:00"], "--since = '2026"),  # of which time zone?
        (["--until", "1h30m"], "--until = '1h30m'"),
        (["--since", "inf"], "--since = 'inf'"),
        (["--since", "infh"], "--since = 'infh'"),
        (["--since", "1h", "--until", "2h"], "--since must be before --until"),
        (["--output", "x.csv"], "--output takes what is exported"),
    ],
)
def test_what_is_wrong_with_an_option_is_said_by_its_name(
    world: World, arguments: list[str], named: str
) -> None:
    ended = world.run("traces", *arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert named in ended.stderr


def test_traces_are_exported(world: World, tmp_path: Path) -> None:
    said = {"messages": [{"role": "user", "content": "x"}], "metadata": {"note": "a\n\x1b[2Jb"}}
    asked = {"model": "llama3.2", **said}
    assert world.herd.call("POST", "/v1/chat/completions", asked).status == 200
    wait_until(lambda: b"note=" in traces(world.herd), 10, "the trace")
    file = tmp_path / "traces.csv"
    assert world.run("traces", "--export", "csv", "-o", str(file)).returncode == 0
    with file.open(encoding="utf-8", newline="") as read:
        rows = list(csv.DictReader(read))
    assert "llama3.2" in {row["model_asked"] for row in rows}
    tags = {row["tags"] for row in rows}
    assert {"nightly", "'=1+1"} <= tags  # no formula to a spreadsheet
    assert "note=a\ufffd\ufffd[2Jb" in tags
    assert len(file.read_text(encoding="utf-8").splitlines()) == len(rows) + 1
    lines = world.run("traces", "--export", "jsonl", "--limit", "1").stdout.splitlines()
    assert len(lines) == 1
    assert "decision" in json.loads(lines[0])
    bad = world.herd.call("GET", "/dashboard/api/traces/export?format=xls")
    assert (bad.status, bad.json()["field"]) == (400, "format")
    bad = world.herd.call("GET", "/dashboard/api/traces/export?from=yesterday")
    assert (bad.status, bad.json()["field"]) == (400, "from")


def test_top_looks_as_often_as_told(world: World) -> None:
    looks = world.run("top", "--count", "2", "--interval", "0.2", "--json")
    assert looks.returncode == 0
    assert [len(json.loads(line)["nodes"]) for line in looks.stdout.splitlines()] == [2, 2]
    shown = world.run("top", "--count", "1")
    assert "tokens/s" in shown.stdout
    assert shown.stdout.endswith("\n")


def test_bench_measures_and_teaches(world: World) -> None:
    unasked = world.run("bench")
    assert unasked.returncode == 2
    assert "Measure 3 models on 2 nodes?" in unasked.stderr
    before = world.herd.call("GET", "/fleet/explain?model=mistral").json()["choices"][0]
    ended = world.run("bench", "--yes", "--json", "--cold")
    rows = [json.loads(line) for line in ended.stdout.splitlines()]
    assert ended.returncode == 0, ended
    assert [(row["node"], row["model"]) for row in rows] == [
        ("laptop", "llama3.2:latest"),
        ("studio", "llama3.2:latest"),
        ("studio", "mistral:latest"),
    ]
    assert all(row["decode_tokens_s"] > 0 and row["prefill_tokens_s"] > 0 for row in rows)
    after = world.herd.call("GET", "/fleet/explain?model=mistral").json()["choices"][0]
    assert after["cost"]["latency_history_ms"] != before["cost"]["latency_history_ms"]
    table = world.run("bench", "--yes", "--model", "mistral", "--node", "studio").stdout
    assert "mistral:latest" in table
    assert "llama3.2" not in table
    none = world.run("bench", "--yes", "--model", "nope")
    assert (none.returncode, none.stdout) == (1, "")


def test_a_measurement_is_refused_with_its_reason(world: World) -> None:
    for body, status, code in (
        ({"model": "mistral"}, 400, "bad_body"),
        ({"model": "mistral", "node": "zzz"}, 404, "unknown_node"),
        ({"model": "mistral", "node": "laptop"}, 404, "unknown_model"),
    ):
        answer = world.herd.call("POST", "/fleet/measure", body)
        assert (answer.status, answer.json()["code"]) == (status, code)
    foreign = {"Origin": "http://evil.example"}
    answer = world.herd.call("POST", "/fleet/measure", {"model": "mistral", "node": "x"}, foreign)
    assert answer.status == 403
    assert world.herd.status()["queue"]["in_flight"] == 0


def test_pull_and_rm_with_consent_only(world: World) -> None:
    unasked = world.run("pull", "qwen3:1.7b")
    assert unasked.returncode == 2
    assert "say yes with --yes" in unasked.stderr
    assert "qwen3" not in world.run("models").stdout
    pulled = world.run("pull", "qwen3:1.7b", "--yes", "--node", "studio", "--node", "laptop")
    assert (pulled.returncode, pulled.stderr) == (0, "")
    assert "studio" in pulled.stdout
    assert "qwen3:1.7b is there" in pulled.stdout
    again = world.run("pull", "qwen3:1.7b", "--yes", "--json")
    nodes = {json.loads(line)["node"] for line in again.stdout.splitlines()}
    assert nodes == {"studio", "laptop"}
    assert world.run("rm", "qwen3:1.7b").returncode == 2
    removed = world.run("rm", "qwen3:1.7b", "--yes", "--json")
    assert sorted(json.loads(removed.stdout)["deleted_on"]) == ["laptop", "studio"]
    gone = world.run("rm", "qwen3:1.7b", "--yes")
    assert (gone.returncode, gone.stderr) == (1, "herd: no node has qwen3:1.7b\n")


def test_a_pull_that_fails_says_where(world: World) -> None:
    ended = world.run("pull", "nowhere:1b", "--yes", "--node", "studio")
    assert ended.returncode == 1
    assert "studio: " in ended.stderr


ASKING = (
    ["status"], ["top"], ["health"], ["nodes"], ["nodes", "drain", "x"], ["models"],
    ["traces"], ["explain", "m"], ["bench", "--yes"], ["pull", "m", "--yes"], ["rm", "m", "--yes"],
)  # fmt: skip


@pytest.mark.parametrize("arguments", ASKING, ids=" ".join)
def test_no_router(arguments: list[str], tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    ended = start("herd", *arguments, "--router", url, home=tmp_path)
    assert (ended.returncode, ended.stdout) == (3, "")
    assert f"no router answers at {url}" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConnectionRefusedError(111, "Connection refused"), "nothing listens there"),
        (http.client.RemoteDisconnected("closed"), "begins with https://"),
        (TimeoutError("timed out"), "timed out"),
        (OSError(), "OSError"),
    ],
)
def test_why_nothing_answers_is_told_in_words(error: Exception, words: str) -> None:
    assert words in why(error)
    assert "Errno" not in why(error)


def test_config_tells_where_values_come_from(tmp_path: Path) -> None:
    (tmp_path / "herd.toml").write_text("queue_limit = 7\n")
    secret = "postgresql://me:hush@db/herd"
    ended = start(
        "herd", "config", "--json", home=tmp_path, HERD_PORT="9", HERD_DATABASE_URL=secret
    )
    rows = {row["name"]: row for row in json.loads(ended.stdout)}
    assert (rows["port"]["value"], rows["port"]["where"]) == (9, "HERD_PORT")
    assert (rows["queue_limit"]["value"], rows["queue_limit"]["source"]) == (7, "file")
    assert rows["host"]["source"] == "default"
    assert rows["database_url"]["value"] == "(secret)"
    assert "hush" not in ended.stdout
    node = start("herd-node", "config", home=tmp_path, HERD_NODE_SLOTS="3")
    assert "HERD_NODE_SLOTS" in node.stdout


def test_names_that_would_steer_a_terminal(tmp_path: Path) -> None:
    """Escape sequences and markup of others are shown, not obeyed."""
    evil = ManagedOllama([model("[red]x[/red]\x1b[31m")])
    with evil.in_thread(), Herd(tmp_path).ready() as herd:
        name = "a[bold]b\u202e"
        with Node(tmp_path, name, f"http://127.0.0.1:{herd.port}", [evil.url]):
            herd.wait_node(name, "online")
            world = World(herd, tmp_path / "home")
            for command in ("status", "nodes", "models", "top"):
                more = ["--count", "1"] if command == "top" else []
                said = world.run(command, *more).stdout
                assert "\x1b" not in said
                assert "\u202e" not in said
            assert "a[bold]b" in world.run("nodes").stdout


def test_a_herd_that_asks_for_a_key(tmp_path: Path) -> None:
    with Herd(tmp_path).ready() as herd:
        world = World(herd, tmp_path / "elsewhere")
        made = start("herd", "keys", "create", "me", "--scope", "admin", "--json", home=herd.home)
        key = json.loads(made.stdout)["key"]
        wait_until(lambda: world.run("status").returncode == 1, 20, "the key to be asked for")
        for arguments in (["status"], ["traces"], ["health"], ["nodes"], ["models"]):
            without = world.run(*arguments)
            assert (without.returncode, without.stdout) == (1, "")
            assert "HERD_API_KEY" in without.stderr
            assert world.run(*arguments, HERD_API_KEY=key).returncode == 0


def test_completion_knows_the_commands(tmp_path: Path) -> None:
    env = {**os.environ, "_HERD_COMPLETE": "complete_bash", "COMP_WORDS": "herd st",
           "COMP_CWORD": "1"}  # fmt: skip
    code = "from ollama_herd.cli.herd import main; main()"
    ended = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=30,
        check=False,
    )  # fmt: skip
    assert ended.stdout.split() == ["status"]


def test_a_command_loads_no_other(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['herd', 'status', '--router', 'http://127.0.0.1:9']\n"
        "from ollama_herd.cli.herd import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = ('aiohttp', 'uvloop', 'sqlalchemy', 'zeroconf', 'psutil', 'xllamacpp')\n"
        "print(*(name for name in heavy if name in sys.modules))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert ended.stdout == "\n"


def test_csv_head_and_lines_fit(world: World) -> None:
    body = world.herd.call("GET", "/dashboard/api/traces/export").body.decode()
    widths = {len(row) for row in csv.reader(io.StringIO(body))}
    assert len(widths) == 1


def test_brackets_in_names_are_no_markup(world: World, tmp_path: Path) -> None:
    made = start("herd", "keys", "create", "ci [/x]", "--model", "llama[abc]*", home=tmp_path)
    assert made.returncode == 0, made.stderr
    listed = start("herd", "keys", "list", home=tmp_path)
    assert (listed.returncode, listed.stderr) == (0, "")
    assert "ci [/x]" in listed.stdout
    assert "llama[abc]*" in listed.stdout
    wait_until(lambda: world.run("pin", "mistral", "studio").returncode == 0, 10, "a pin")
    try:
        assert world.run("nodes", "rename", "studio", "büro [/2]").returncode == 0
        world.herd.wait_node("büro [/2]", "online")
        for command in (["pins"], ["explain", "mistral"]):
            shown = world.run(*command)
            assert (shown.returncode, shown.stderr) == (0, ""), command
            assert "büro [/2]" in shown.stdout, command
        pulled = world.run("pull", "mistral", "--node", "büro [/2]", "--yes")
        assert "there is no node" not in pulled.stderr
    finally:
        world.run("nodes", "rename", "büro [/2]", "")
        world.herd.wait_node("studio", "online")
        world.run("unpin", "mistral")


def test_an_export_whose_reader_has_enough(world: World) -> None:
    url = f"http://127.0.0.1:{world.herd.port}"
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "ollama_herd.cli.herd", "traces", "--export", "csv"]
    ended = subprocess.run(
        [*command, "--router", url], stdout=writing, stderr=subprocess.PIPE, timeout=30, check=False
    )
    os.close(writing)
    assert ended.stderr == b""


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("0.0.0.0", "http://127.0.0.1:11435"),
        ("::", "http://[::1]:11435"),
        ("fd00::1", "http://[fd00::1]:11435"),
        ("herd.lan", "http://herd.lan:11435"),
    ],
)
def test_where_commands_look_for_the_router(host: str, url: str) -> None:
    assert url_of(RouterSettings(host=host)) == url
