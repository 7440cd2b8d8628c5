"""The node's identity on disk."""

import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from ollama_herd.agent.errors import AgentError
from ollama_herd.agent.identity import (
    BOOT_FILE,
    IDENTITY_FILE,
    NodeKeys,
    draw_next_key,
    load_identity,
    next_boot,
)


def test_it_is_made_once_and_kept(tmp_path) -> None:
    home = tmp_path / "new" / "home"
    first = load_identity(home)
    assert load_identity(home) == first
    assert len(first.node_id) == 32
    assert len(first.node_key) >= 43  # 256 bits
    assert [path.name for path in home.iterdir()] == [IDENTITY_FILE]


@pytest.mark.skipif(sys.platform == "win32", reason="no modes")
def test_only_the_owner_may_read_it(tmp_path) -> None:
    load_identity(tmp_path)
    assert (tmp_path / IDENTITY_FILE).stat().st_mode & 0o777 == 0o600


def test_a_key_that_follows_is_drawn_once_until_it_is_adopted(tmp_path) -> None:
    with pytest.raises(AgentError, match="--home"):
        draw_next_key(tmp_path)
    first = load_identity(tmp_path)
    keys = NodeKeys(tmp_path, first)
    assert keys.following() == ""
    draw_next_key(tmp_path)
    drawn = keys.following()
    assert len(drawn) >= 43
    assert drawn != first.node_key
    draw_next_key(tmp_path)  # the router may know the first one already
    assert keys.following() == drawn
    assert load_identity(tmp_path) == first
    keys.adopt(drawn)
    assert keys.following() == ""
    assert load_identity(tmp_path).node_id == first.node_id
    assert load_identity(tmp_path).node_key == keys.current == drawn


def test_many_at_once_agree(tmp_path) -> None:
    with ThreadPoolExecutor(16) as pool:
        found = set(pool.map(lambda _: load_identity(tmp_path), range(64)))
    assert len(found) == 1


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"node_id":"a"}', b'{"node_id":"","node_key":"k"}', b"\xff\xfe"],
)
def test_a_damaged_file_is_an_error_and_never_replaced(tmp_path, content: bytes) -> None:
    path = tmp_path / IDENTITY_FILE
    path.write_bytes(content)
    with pytest.raises(AgentError, match="damaged") as raised:
        load_identity(tmp_path)
    assert str(path) in str(raised.value)
    assert path.read_bytes() == content


def test_a_home_that_cannot_be_written_is_an_error(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AgentError, match="--home"):
        load_identity(tmp_path / "file" / "home")


def test_boots_grow_even_when_the_clock_goes_back(tmp_path) -> None:
    assert next_boot(tmp_path, 1_000) == 1_000
    assert next_boot(tmp_path, 5_000) == 5_000
    assert next_boot(tmp_path, 2_000) == 5_001
    (tmp_path / BOOT_FILE).write_text("damaged")
    assert next_boot(tmp_path, 6_000) == 6_000
    assert [path.name for path in tmp_path.iterdir()] == [BOOT_FILE]
