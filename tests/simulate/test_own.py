"""One's own fleet and traffic as a simulation: `herd whatif`."""

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from ollama_herd.cli.commands import app
from ollama_herd.core.node import EngineKind, Gpu, Platform, Vitals
from ollama_herd.core.request import Usage
from ollama_herd.simulate import own
from ollama_herd.store.database import Database
from ollama_herd.store.expiry import Retention
from ollama_herd.store.fleet import FleetStore
from ollama_herd.store.traces import open_traces
from tests.core.fleets import GB, engine, fleet_of, model, report
from tests.store.samples import trace

SMALL, LARGE = "llama3.2:3b", "qwen3:14b"
CARD = Vitals(
    memory_total_bytes=64 * GB,
    memory_available_bytes=60 * GB,
    gpus=(
        Gpu(
            name="NVIDIA GeForce RTX 4090",
            vendor="nvidia",
            memory_total_bytes=24 * GB,
            memory_free_bytes=24 * GB,
        ),
    ),
)


def nodes():
    small, large = model(SMALL, 2.0), model(LARGE, 9.3)
    openai = engine([small], kind=EngineKind.OPENAI, engine_id="vllm-8000")
    fleet = fleet_of(
        [
            report("mac", [engine([small, large], slots=2)]),
            report(
                "tower",
                [engine([small]), openai],
                platform=Platform(system="linux", machine="x86_64"),
                vitals=CARD,
            ),
            report("other", [openai]),
        ]
    )
    return list(fleet.nodes.values())


def test_nodes_become_machines():
    mac, tower = own.machines_of(nodes())
    assert (mac.name, mac.memory_gb, mac.vram_gb, mac.slots) == ("mac", 64, 0, 2)
    assert mac.bandwidth_gb_s == 400
    assert (tower.name, tower.vram_gb, tower.models) == ("tower", 24, (SMALL,))
    assert mac.models == (SMALL, LARGE)
    assert own.specs_of(nodes())[LARGE].size_gb == pytest.approx(9.3)


def changed(**what):
    given_nodes = nodes()
    return own.changed(own.machines_of(given_nodes), own.specs_of(given_nodes), **what)


def test_changes_of_the_fleet():
    assert [m.name for m in changed(without=["mac"])] == ["tower"]
    assert changed(added=["studio"])[-1].models == (SMALL, LARGE)
    put = changed(put=[f"{LARGE}=tower"])
    assert put[1].models == (SMALL, LARGE)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ({"without": ["nope"]}, "no machine is called 'nope'"),
        ({"without": ["mac", "tower"]}, "no machine is left"),
        ({"added": ["cray"]}, "there is no kind 'cray'"),
        ({"put": ["tower"]}, "is no MODEL=MACHINE"),
        ({"put": [f"{LARGE}=nope"]}, "is no MODEL=MACHINE"),
        ({"put": ["nope=tower"]}, "is no MODEL=MACHINE"),
    ],
)
def test_changes_that_make_no_sense(what, said):
    with pytest.raises(own.ChangeRefused, match=said):
        changed(**what)


sents = st.builds(
    own.Sent,
    at_s=st.floats(0, 1e9),
    client=st.just("c"),
    model=st.sampled_from([SMALL, LARGE, "gone:1b"]),
    prompt=st.integers(-1, 10**7),
    output=st.integers(-1, 10**7),
)


@given(st.lists(sents, max_size=30), st.floats(0.1, 100.0))
def test_requests_keep_their_order_and_pauses_are_bounded(sent, times):
    found = own.conversations_of(sent, own.specs_of(nodes()), times)
    assert len(found) == sum(one.model != "gone:1b" for one in sent)
    arrivals = [one.at_s for one in found]
    assert arrivals == sorted(arrivals)
    gaps = [b - a for a, b in pairwise(arrivals)]
    assert all(gap <= own.LONGEST_PAUSE_S / times + 1e-6 for gap in gaps)
    assert all(one.turns[0].prompt >= 1 and one.turns[0].output >= 1 for one in found)


@pytest.fixture
def home(tmp_path):
    """A router's folder after forty requests."""
    database = Database(tmp_path)
    FleetStore(database).save(nodes())
    store = open_traces(database, Retention(days=30, max_rows=0))
    for number in range(40):
        usage = Usage(prompt_tokens=300, output_tokens=50)
        asked = trace(model=SMALL if number % 2 else LARGE, started_s=1e9 + number)
        store.put(msgspec.structs.replace(asked, usage=usage))
    assert store.close()
    database.close()
    return tmp_path


def whatif(*more):
    env = {"COLUMNS": "140", "TERM": "dumb"}
    return CliRunner().invoke(app, ["whatif", "--seeds", "1", *more], env=env)


def test_the_traffic_is_replayed_as_it_is_and_as_it_might_be(home):
    call = ["--home", str(home), "--policies", "herd", "--without", "tower", "--json"]
    result = whatif(*call)
    assert result.exit_code == 0, result.output
    found = msgspec.json.decode(result.stdout)
    assert [len(rows) for rows in found.values()] == [1, 1]
    is_now, might_be = (rows[0]["mean"] for rows in found.values())
    assert is_now["requests"] == might_be["requests"] == 40
    assert is_now["failed"] == might_be["failed"] == 0
    assert might_be["ttft_mean_s"] > is_now["ttft_mean_s"]


def test_the_table(home):
    result = whatif("--home", str(home), "--times", "4")
    assert result.exit_code == 0, result.output
    assert "as it is: 40 requests on 2 machines" in result.output
    assert "round-robin" in result.output


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--without", "nope"], "no machine is called 'nope'"),
        (["--policies", "magic"], "there is no policy 'magic'"),
    ],
)
def test_what_cannot_be_is_said(home, more, said):
    result = whatif("--home", str(home), *more)
    assert result.exit_code == 2
    assert said in result.output


def test_a_folder_without_database_is_named(tmp_path):
    result = whatif("--home", str(tmp_path))
    assert result.exit_code == 1
    assert "there is no database at" in result.output
    assert not list(tmp_path.iterdir())
