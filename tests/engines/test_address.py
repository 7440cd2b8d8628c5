"""Engine addresses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_herd.engines.address import EngineAddress, parse_engine_url, parse_ollama_host


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("", "127.0.0.1", 11434),
        ("0.0.0.0", "127.0.0.1", 11434),
        ("0.0.0.0:8080", "127.0.0.1", 8080),
        (":8080", "127.0.0.1", 8080),
        ("http://0.0.0.0:8080/", "127.0.0.1", 8080),
        ("192.168.1.7", "192.168.1.7", 11434),
        ("mac.local:9999", "mac.local", 9999),
        ("http://mac.local", "mac.local", 80),
        ("http://mac.local:11434/some/path", "mac.local", 11434),
        ('"127.0.0.1:1234" ', "127.0.0.1", 1234),
        ("[::]:8080", "127.0.0.1", 8080),
        ("[::1]", "::1", 11434),
        ("[::1]:8080", "::1", 8080),
        ("::1", "::1", 11434),
        ("localhost:99999", "localhost", 11434),
        ("localhost:port", "localhost", 11434),
    ],
)
def test_ollama_host_is_read_as_ollama_reads_it(text: str, host: str, port: int) -> None:
    assert parse_ollama_host(text) == EngineAddress(host, port)


@pytest.mark.parametrize("text", ["https://ollama.example.org", "unix:///run/ollama"])
def test_what_is_no_plain_server_is_none(text: str) -> None:
    assert parse_ollama_host(text) is None


@given(st.text(max_size=60))
def test_any_text_gives_an_address_or_none(text: str) -> None:
    address = parse_ollama_host(text)
    assert address is None or 0 < address.port < 65536


@given(st.ip_addresses(), st.integers(1, 65535))
def test_an_address_survives_the_way_through_its_url(ip, port: int) -> None:
    address = parse_engine_url(EngineAddress(str(ip), port).url)
    assert address.port == port
    assert address.host in (str(ip), "127.0.0.1")
    assert address == parse_ollama_host(address.netloc)


@pytest.mark.parametrize("url", ["https://h:1", "http://", "h:1", "http://h"])
def test_an_engine_url_needs_host_and_port(url: str) -> None:
    with pytest.raises(ValueError, match="HOST:PORT"):
        parse_engine_url(url)


def test_only_sure_loopback_addresses_are_loopback() -> None:
    assert EngineAddress("127.0.0.1", 1).is_loopback
    assert EngineAddress("::1", 1).is_loopback
    assert EngineAddress("localhost", 1).is_loopback
    assert not EngineAddress("10.0.0.1", 1).is_loopback
    assert not EngineAddress("somewhere", 1).is_loopback
