"""The documentation says what the code does: generated pages, names, links, commands, messages."""

import ast
import itertools
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from tools import docs, sources
from tools.parts import OWNERS
from tools.routes import herd_app
from typer.testing import CliRunner

from ollama_herd import __version__
from ollama_herd.api.endpoints import INFERENCE
from ollama_herd.cli.agent import app as node_cli
from ollama_herd.cli.commands import app as herd_cli
from ollama_herd.config import API_KEY_VARIABLE, HOME_VARIABLE, NodeSettings, RouterSettings, load
from ollama_herd.core import hours, inflight, pins, predict, renewal, residency
from ollama_herd.core.decision import Cost, Eliminated
from ollama_herd.core.health.checks import CHECKS
from ollama_herd.core.node import NodeStatus
from ollama_herd.core.request import OutcomeKind, RefusalKind
from tests.documents import (
    DOCS,
    ROOT,
    anchors,
    commands,
    links,
    options_of,
    pages,
    prose,
    spans,
    toml_examples,
)

PAGES = pages()


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _read(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


# --- generated pages ---------------------------------------------------------------------------


def test_pages_are_what_the_code_gives() -> None:
    stale = [
        _name(path)
        for path, text in docs.pages().items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    assert not stale, "run `make docs` and commit what it writes"


def test_every_part_of_a_page_is_made() -> None:
    assert not [_name(path) for path, text in docs.pages().items() if "<!-- part:" in text]
    assert "## `herd-node`" in _read("cli.md")


def test_nobody_is_told_to_install_the_other_project_of_our_name() -> None:
    """`ollama-herd` on PyPI is another program."""
    told = re.compile(r"install\s+(?:-\S+\s+)*['\"]?ollama-herd")
    source = [*ROOT.glob("src/ollama_herd/**/*.py"), *ROOT.glob("web/src/**/*.svelte")]
    assert len(source) > 100
    assert not [_name(p) for p in [*PAGES, *source] if told.search(p.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("kind", [RouterSettings, NodeSettings])
def test_every_setting_is_listed(kind: type[RouterSettings | NodeSettings]) -> None:
    page = _read("configuration.md")
    missing = [
        name
        for name, field in kind.model_fields.items()
        if f"| `{name}` |" not in page
        or f"`{kind.env_prefix}{name.upper()}`" not in page
        or f"| {field.description} |" not in page
    ]
    assert not missing


def test_every_endpoint_is_listed() -> None:
    routes = {route.resource.canonical for route in herd_app().router.routes() if route.resource}
    paths = {*routes, *map(bytes.decode, INFERENCE)}
    page, api = _read("how-it-works.md"), _read("api.md")
    assert not [path for path in paths if f" {path}`" not in page]
    public = [path for path in paths if not path.startswith("/dashboard")]
    assert not [path for path in public if f"`{path}`" not in api]


@pytest.mark.parametrize("kind", [Eliminated, OutcomeKind, RefusalKind, NodeStatus])
def test_every_reason_has_its_meaning(kind: type) -> None:
    page = _read("how-it-works.md")
    for member in sources.members(kind):
        assert re.search(rf"^\| `{member.value.value}` \| \S", page, re.MULTILINE), member.name


def test_every_signal_has_its_meaning() -> None:
    terms = [member for member in sources.members(Cost) if member.name != "total_ms"]
    assert len(terms) >= 8
    assert all(member.comment for member in terms)
    shown = json.loads(docs.MEANINGS.read_text(encoding="utf-8"))
    assert [signal["field"] for signal in shown["signals"]] == [member.name for member in terms]
    assert set(shown["eliminated"]) == {reason.value for reason in Eliminated}
    assert set(shown["outcomes"]) == {outcome.value for outcome in OutcomeKind}


def test_every_module_is_listed_with_what_it_is() -> None:
    page = _read("modules.md")
    for path in sources.sources():
        assert re.search(rf"^\| `{sources.place(path)}` \| \S", page, re.MULTILINE), path


@pytest.mark.parametrize(
    ("number", "meant", "said"),
    [
        (residency.BACKLOG, 3, "when three or more requests of a model wait"),
        (residency.SOONER, 0.8, "in less than 80 % of the time"),
        (residency.PLACE_EVERY_S, 5, "every five seconds"),
        (residency.FULL, 0.6, "used by more than 60 %"),
        (inflight.PAUSES_MOST, 16, "the last sixteen pauses"),
        (inflight.PAUSE_MIN_S, 120, "pauses of more than two minutes"),
        (renewal.HORIZON_S, 900, "within a quarter of an hour"),
        (predict.BUSY_PERCENT, 40, "From 40 % on the machine counts as in use"),
        (hours.HOURS, 168, "168 of them are kept"),
        (pins.AGAIN_S, 60, "within a minute"),
    ],
)
def test_the_page_of_routing_says_the_numbers_of_the_code(
    number: float, meant: float, said: str
) -> None:
    assert number == meant, f"docs/routing.md says {said!r}"
    assert said in " ".join(_read("routing.md").split())


def test_state_has_one_owner() -> None:
    states, modules = zip(*OWNERS, strict=True)
    assert len(set(states)) == len(states)
    assert all((sources.PACKAGE / module).is_file() for module in modules)


def test_headers_of_the_herd_are_explained() -> None:
    text = "\n".join(prose(path) for path in PAGES).lower()
    for name in set(re.findall(r"x-herd-[a-z-]+", sources.literals().lower())):
        if not name.endswith("-"):
            assert name in text, name
    assert all(sources.commented("X-Herd-").values()), "say behind each header what it holds"


def _doctor_codes() -> set[str]:
    """The first words of all `ok(…)`, `warning(…)` and `critical(…)` of the doctors."""
    calls = (
        node
        for path in (sources.PACKAGE / "cli").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    )
    return {
        call.args[0].value
        for call in calls
        if call.func.id in ("ok", "warning", "critical")
        if isinstance(call.args[0], ast.Constant)
    }


def test_every_code_has_its_meaning_and_remedy() -> None:
    page = _read("troubleshooting.md")
    doctors, _, checks = page.partition("## What the health checks find")
    rows = re.findall(r"^\| (`[a-z`, -]+`) \| ([^|]+) \|([^|]*)\|$", doctors, re.MULTILINE)
    found = {code for row in rows for code in re.findall(r"`([a-z-]+)`", row[0])}
    codes = _doctor_codes()
    assert len(codes) > 30
    assert found == codes
    known = {check.code for check in CHECKS}
    named = re.findall(r"^\| (`[a-z`, -]+`) \|", checks, re.MULTILINE)
    assert {code for row in named for code in re.findall(r"`([a-z-]+)`", row)} == known
    for check in CHECKS:
        assert check.meaning in checks
        assert check.advice in checks


# --- links, paths, names -----------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in links(page):
        file, _, anchor = target.partition("#")
        aim = (page.parent / file).resolve() if file else page
        assert aim.exists(), target
        if anchor:
            assert anchor in anchors(aim), target


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_files_it_names_exist(page: Path) -> None:
    for span in spans(page):
        if re.fullmatch(r"[\w.-]+(/[\w.-]+)+\.(py|md|toml|sql|yaml)", span):
            places = (ROOT, sources.PACKAGE, page.parent)
            assert any((place / span).exists() for place in places), span


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_variables_it_names_exist(page: Path) -> None:
    known = {HOME_VARIABLE, API_KEY_VARIABLE, "HERD_TEST_GGUF"}
    for kind in (RouterSettings, NodeSettings):
        known |= {kind.env_prefix + name.upper() for name in kind.model_fields}
    named = set(re.findall(r"\bHERD_[A-Z_]*[A-Z]\b", page.read_text(encoding="utf-8")))
    assert named <= known


def test_decisions_are_numbered() -> None:
    found = sorted((DOCS / "decisions").glob("[0-9]*.md"))
    for number, path in enumerate(found, 1):
        assert path.name.startswith(f"{number:04d}-")
        assert path.read_text(encoding="utf-8").startswith(f"# {number}. "), path.name
        assert "**Decision.**" in path.read_text(encoding="utf-8"), path.name
        assert "**Why.**" in path.read_text(encoding="utf-8"), path.name


def test_house_rules_fit_on_a_page() -> None:
    assert len((ROOT / "AGENTS.md").read_text(encoding="utf-8").splitlines()) <= 60


def test_words_have_one_meaning() -> None:
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", _read("glossary.md"), re.MULTILINE)[1:]
    words = [re.sub(r"[\s-]", "", word.lower()).removesuffix("s") for word, _ in rows]
    meanings = [meaning for _, meaning in rows]
    assert len(words) > 30
    assert len(set(words)) == len(words)
    assert len(set(meanings)) == len(meanings)
    assert [word for word, _ in rows] == sorted((word for word, _ in rows), key=str.lower)


# --- commands and examples ---------------------------------------------------------------------


@cache
def _targets() -> frozenset[str]:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    return frozenset(re.findall(r"^([a-z][a-z-]*):(?!=)", makefile, re.MULTILINE))


@cache
def _help(program: str, *subcommands: str) -> str:
    """What the program really prints for `--help`, "" when it has no such subcommand."""
    if program.endswith(".py"):
        call = [sys.executable, str(ROOT / program), "--help"]
        done = subprocess.run(call, capture_output=True, text=True, timeout=60, check=True)
        return done.stdout
    app = {"herd": herd_cli, "herd-node": node_cli}[program]
    wide = {"COLUMNS": "300", "TERM": "dumb", "NO_COLOR": "1"}
    result = CliRunner().invoke(app, [*subcommands, "--help"], env=wide, prog_name=program)
    return result.output if result.exit_code == 0 else ""


def _problems(words: list[str]) -> Iterator[str]:
    """What is wrong with one command line."""
    program, rest = words[0].rsplit("/", 1)[-1], words[1:]
    if program == "make":
        wanted = {word for word in rest if "=" not in word and not word.startswith("-")}
        yield from (f"no target {word}" for word in wanted - _targets())
        return
    if program.startswith("python"):
        if not rest or not rest[0].endswith(".py"):
            return
        program, rest = rest[0], rest[1:]
        if not (ROOT / program).is_file():
            yield f"no file {program}"
            return
    subcommands = list(itertools.takewhile(lambda word: re.fullmatch(r"[a-z][a-z-]*", word), rest))
    if program.endswith(".py"):
        subcommands = []
    while subcommands and not _help(program, *subcommands):
        if len(subcommands) == 1:
            yield f"{program} has no command {subcommands[0]}"
            return
        subcommands.pop()  # an argument of the command before
    known = options_of(_help(program, *subcommands))
    given = {word.partition("=")[0] for word in rest if re.match(r"--?[a-z]", word)}
    yield from (f"{program} has no option {option}" for option in given - known)


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_commands_exist(page: Path) -> None:
    wrong = [
        f"{' '.join(words)}: {problem}" for words in commands(page) for problem in _problems(words)
    ]
    assert not wrong


def test_a_wrong_command_would_be_noticed() -> None:
    for line in ("make nothing", "herd --nothing", "herd nothing", "herd demo --nothing"):
        assert list(_problems(line.split())), line
    for line in ("make test", "herd --port 8080", "herd demo --once", "herd-node --slots 2"):
        assert not list(_problems(line.split())), line


def test_extras_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    known = set(project["optional-dependencies"])
    for page in PAGES:
        named = re.findall(r"ollama-herd\[([\w,]+)\]", page.read_text(encoding="utf-8"))
        assert {extra for extras in named for extra in extras.split(",")} <= known, page


@pytest.mark.parametrize(("file", "text"), toml_examples())
def test_settings_files_can_be_used(
    file: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(HOME_VARIABLE, raising=False)
    (tmp_path / file).write_text(text, encoding="utf-8")
    kind = RouterSettings if file == RouterSettings.file_name else NodeSettings
    loaded = load(kind, {"home": str(tmp_path)})
    given = tomllib.loads(text)
    assert given
    assert all(loaded.origins[name].source == "file" for name in given)


def test_both_settings_files_have_an_example() -> None:
    assert {file for file, _ in toml_examples()} == {"herd.toml", "node.toml"}


# --- messages ----------------------------------------------------------------------------------


def test_every_message_has_its_remedy() -> None:
    page = " ".join(_read("operations.md").split())
    missing = {
        f"{message.file}: {message.text}"
        for message in sources.messages()
        if max(message.text.split(sources.GAP), key=len).strip() not in page
    }
    assert not missing, "add them to docs/operations.in.md with cause and remedy"


def test_no_message_is_explained_that_does_not_exist() -> None:
    said = sources.literals()
    rows = [line for line in _read("operations.md").splitlines() if line.startswith("|")]
    quoted = [span for row in rows for span in re.findall(r"`([^`]+)`", row.split("|")[1])]
    texts = [text for text in quoted if " " in text]
    assert len(texts) > 80
    unknown = {
        text
        for text in texts
        for piece in text.split(sources.GAP)
        if len(piece.strip(" .:;,()")) > 3 and piece.strip(" .:;,()") not in said
    }
    assert not unknown


# --- recordings --------------------------------------------------------------------------------


def test_recordings_are_never_converted() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    files = [path for path in (ROOT / "tests").rglob("golden/**/*") if path.suffix == ".txt"]
    assert files
    names = "\n".join(_name(path) for path in files)
    call = ["git", "check-attr", "--stdin", "text"]
    done = subprocess.run(
        call, input=names, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    answers = done.stdout.splitlines()
    assert len(answers) == len(files)
    assert [line for line in answers if not line.endswith(": unset")] == []


def test_the_changelog_has_this_version_with_its_day() -> None:
    newest = next(
        line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## ")
    )
    assert re.fullmatch(rf"## {re.escape(__version__)} - 20\d\d-\d\d-\d\d", newest)
