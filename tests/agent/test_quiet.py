"""The agent's side of quiet hours: by the clock on its wall, told once."""

from ollama_herd.agent.quiet import QuietHours


def test_begin_and_end_are_told_once() -> None:
    said: list[str] = []
    clock = [21 * 3600.0]
    quiet = QuietHours(["22:00-07:00"], said.append, lambda: clock[0])
    assert quiet.until() == ""
    assert said == []
    clock[0] = 22 * 3600.0
    assert [quiet.until(), quiet.until()] == ["07:00", "07:00"]
    assert said == ["quiet hours until 07:00: this machine gets no new requests"]
    clock[0] = 31 * 3600.0 - 1
    assert quiet.until() == "07:00"
    clock[0] = 31 * 3600.0
    assert quiet.until() == ""
    assert said[1:] == ["quiet hours are over: this machine takes requests again"]


def test_without_any_nothing_is_told() -> None:
    said: list[str] = []
    quiet = QuietHours((), said.append)
    assert quiet.until() == ""
    assert said == []
