"""Settings: precedence, origins, and what a wrong one is told."""

import os
import sys
from pathlib import Path

import pytest

from ollama_herd.config import ConfigError, NodeSettings, RouterSettings, Source, load


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of our own and no variable of the machine that runs the tests."""
    for name in list(os.environ):
        if name.upper().startswith("HERD_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HERD_HOME", str(tmp_path))
    return tmp_path


def refusal(kind: type, **flags: object) -> str:
    with pytest.raises(ConfigError) as caught:
        load(kind, flags)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_defaults_are_as_documented(home: Path) -> None:
    settings, origins = load(RouterSettings, {})
    assert settings.host == "0.0.0.0"
    assert settings.port == 11435
    assert settings.home == home
    assert settings.max_body_bytes == 268_435_456
    assert origins["port"].source is Source.DEFAULT
    assert origins["home"] == (Source.ENV, "HERD_HOME")


def test_flag_beats_environment_beats_file_beats_default(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "herd.toml").write_text('port = 1\nhost = "::1"\nqueue_limit = 7\n')
    monkeypatch.setenv("HERD_PORT", "2")
    monkeypatch.setenv("HERD_HOST", "127.0.0.2")
    settings, origins = load(RouterSettings, {"port": "3", "host": None})
    assert (settings.port, settings.host, settings.queue_limit) == (3, "127.0.0.2", 7)
    assert settings.max_attempts == 3
    assert origins["port"] == (Source.FLAG, "--port")
    assert origins["host"] == (Source.ENV, "HERD_HOST")
    assert origins["queue_limit"] == (Source.FILE, str(home / "herd.toml"))
    assert origins["max_attempts"] == (Source.DEFAULT, "")


def test_home_flag_chooses_the_file(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "herd.toml").write_text("port = 5\n")
    settings, origins = load(RouterSettings, {"home": str(other)})
    assert (settings.home, settings.port) == (other, 5)
    assert origins["home"] == (Source.FLAG, "--home")


def test_home_of_a_node_may_differ_from_the_routers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HERD_NODE_HOME", str(tmp_path / "node"))
    assert load(NodeSettings, {}).settings.home == tmp_path / "node"
    assert load(NodeSettings, {}).origins["home"].where == "HERD_NODE_HOME"
    assert load(RouterSettings, {}).settings.home == tmp_path


def test_home_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERD_HOME", "~/somewhere")
    assert load(RouterSettings, {}).settings.home == Path.home() / "somewhere"


def test_building_settings_directly_reads_neither_environment_nor_file(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "herd.toml").write_text("port = 1\n")
    monkeypatch.setenv("HERD_PORT", "2")
    assert RouterSettings(home=home).port == 11435


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        RouterSettings().port = 1


def test_an_empty_variable_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERD_PORT", "")
    assert load(RouterSettings, {}).settings.port == 11435


def test_switches(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERD_MDNS", "false")
    assert load(RouterSettings, {}).settings.mdns is False
    assert load(RouterSettings, {"mdns": True}).settings.mdns is True
    (home / "herd.toml").write_text("traces = false\n")
    assert load(RouterSettings, {}).settings.traces is False


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("prot = 1\n", ["unknown setting 'prot'", "herd.toml", "did you mean port?"]),
        ("zzz = 1\n", ["unknown setting 'zzz'", "herd.toml", "known are", "queue_limit"]),
        ("[queue]\nlimit = 3\n", ["unknown setting 'queue'"]),
        ('home = "/x"\n', ["'home'", "herd.toml", "--home", "HERD_HOME"]),
        ("port = 70000\n", ["herd.toml: port = 70000", "65535", "default 11435"]),
        ('port = "x"\n', ["herd.toml: port = 'x'", "integer"]),
        ("port = true\n", ["herd.toml: port = True", "number", "default 11435"]),
        ("drain_s = true\n", ["herd.toml: drain_s = True", "number"]),
        ('log_level = "loud"\n', ["log_level = 'loud'", "'debug'", "'error'", "default info"]),
        ('data_plane = "x"\n', ["data_plane", "'raw'", "'aiohttp'"]),
        ("heartbeat_s = 0\n", ["heartbeat_s", "greater than 0"]),
        ("heartbeat_s = nan\n", ["heartbeat_s", "finite"]),
        ("max_attempts = 0\n", ["max_attempts", "greater than or equal to 1"]),
        ("port = \n", ["herd.toml is not valid TOML", "line 1"]),
    ],
)
def test_a_wrong_file_is_told(home: Path, text: str, parts: list[str]) -> None:
    (home / "herd.toml").write_text(text)
    told = refusal(RouterSettings)
    assert [part for part in parts if part not in told] == []


@pytest.mark.parametrize(
    ("variable", "value", "parts"),
    [
        ("HERD_PROT", "1", ["unknown variable HERD_PROT", "did you mean HERD_PORT?"]),
        ("HERD_NODE_ENGINES", "x", ["HERD_NODE_ENGINES", "did you mean HERD_NODE_ENGINE?"]),
        ("HERD_PORT", "high", ["HERD_PORT = 'high'", "integer", "default 11435"]),
        ("HERD_MDNS", "perhaps", ["HERD_MDNS = 'perhaps'", "boolean"]),
    ],
)
def test_a_wrong_variable_is_told(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, parts: list[str]
) -> None:
    monkeypatch.setenv(variable, value)
    told = refusal(RouterSettings)
    assert [part for part in parts if part not in told] == []


def test_a_wrong_flag_is_told() -> None:
    assert refusal(RouterSettings, port="-1").startswith("--port = '-1' is not valid: ")
    assert refusal(RouterSettings, home="").startswith("--home = '' is not valid: it should name")
    assert refusal(NodeSettings, relay_port="x").startswith("--relay-port = 'x' is not valid: ")


def test_variables_of_the_tests_are_nobodys_business(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERD_TEST_ANYTHING", "1")
    load(RouterSettings, {})


def test_a_file_that_cannot_be_read_is_told(home: Path) -> None:
    (home / "herd.toml").mkdir()
    assert "herd.toml cannot be read: it is a folder" in refusal(RouterSettings)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files")
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_file_whose_reading_would_not_end_is_told(home: Path, kind: str) -> None:
    file = home / "herd.toml"
    if kind == "pipe":
        os.mkfifo(file)
    else:
        file.symlink_to("/dev/zero")
    assert "herd.toml cannot be read: it is no file" in refusal(RouterSettings)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"# " + b"x" * 1_000_000, "herd.toml cannot be read: it is longer than"),
        (b"\x00\xff\xfe" * 100, "herd.toml is not valid TOML"),
        (b"port = " + b"[" * 100_000, "herd.toml is not valid TOML"),
    ],
    ids=["huge", "binary", "deep"],
)
def test_a_file_that_is_no_settings_is_told(home: Path, content: bytes, part: str) -> None:
    (home / "herd.toml").write_bytes(content)
    assert part in refusal(RouterSettings)


@pytest.mark.skipif(sys.platform == "win32", reason="symbolic links need a right there")
def test_a_file_that_was_linked_and_is_gone_is_told(home: Path) -> None:
    """Or all of its settings were silently the defaults."""
    (home / "herd.toml").symlink_to(home / "dotfiles" / "herd.toml")
    assert "herd.toml leads to a file that is not there" in refusal(RouterSettings)


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("box", "http://box:11435"),
        ("box:80", "http://box:80"),
        ("http://box", "http://box:11435"),
        ("http://box:1/", "http://box:1"),
        ("https://herd.example", "https://herd.example:443"),
        ("http://[fe80::1]:9", "http://[fe80::1]:9"),
        ("", ""),
    ],
)
def test_router_address(given: str, url: str) -> None:
    assert load(NodeSettings, {"router": given}).settings.router == url


@pytest.mark.parametrize(
    ("given", "urls"),
    [
        (["box"], ("http://box:11434",)),
        (["http://box:8000/v1", "box:8000"], ("http://box:8000",)),
        (["a", "b:1"], ("http://a:11434", "http://b:1")),
        (["http://box"], ("http://box:80",)),
        ([], ()),
    ],
)
def test_engine_addresses(given: list[str], urls: tuple[str, ...]) -> None:
    assert load(NodeSettings, {"engine": given}).settings.engine == urls


def test_engines_of_environment_and_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "node.toml").write_text('engine = ["a", "b"]\nslots = 2\n')
    settings = load(NodeSettings, {}).settings
    assert settings.engine == ("http://a:11434", "http://b:11434")
    assert settings.slots == 2
    monkeypatch.setenv("HERD_NODE_ENGINE", "c:1, d:2")
    assert load(NodeSettings, {}).settings.engine == ("http://c:1", "http://d:2")


@pytest.mark.parametrize(
    ("engine", "part"),
    [
        ("ftp://box", "http://"),
        ("https://box", "plain http://"),
        ("http://box/api/chat", "no path"),
        ("http://u:p@box", "only http://HOST:PORT"),
        ("http://box:99999", "range"),
        ("http://", "no host"),
    ],
)
def test_a_wrong_engine_is_told(engine: str, part: str) -> None:
    told = refusal(NodeSettings, engine=[engine])
    assert told.startswith("--engine = ")
    assert part in told
