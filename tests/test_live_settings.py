"""Which settings may change while the router runs, and what becomes of earlier changes."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ollama_herd.config import Origin, RouterSettings, Source
from ollama_herd.config.live import LIVE, SettingRefused, changed, locked, overridden

DEFAULTS = RouterSettings()
ENV = {"hedge": Origin(Source.ENV, "HERD_HEDGE"), "placement": Origin(Source.FILE, "herd.toml")}

values = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just([1])
)


def test_live_settings_exist_and_are_switches_or_numbers() -> None:
    assert set(LIVE) <= set(RouterSettings.model_fields)
    assert all(isinstance(getattr(DEFAULTS, name), bool | int | float) for name in LIVE)


def test_what_a_flag_or_a_variable_says_is_locked() -> None:
    assert "HERD_HEDGE" in locked("hedge", ENV)
    assert locked("placement", ENV) == ""
    assert locked("fallbacks", {}) == ""
    assert "restart" in locked("port", {})


@given(st.sampled_from(LIVE), values)
def test_a_value_is_taken_whole_or_refused(name: str, value: Any) -> None:
    try:
        after = changed(DEFAULTS, name, value, {})
    except SettingRefused:
        return
    assert getattr(after, name) == value
    assert type(getattr(after, name)) is type(getattr(DEFAULTS, name)) or isinstance(value, int)
    others = set(RouterSettings.model_fields) - {name}
    assert all(getattr(after, one) == getattr(DEFAULTS, one) for one in others)


@given(st.dictionaries(st.sampled_from([*LIVE, "port", "gone"]), values, max_size=6))
def test_earlier_changes_that_no_longer_fit_are_named(kept: dict[str, Any]) -> None:
    settings, ignored = overridden(DEFAULTS, kept, ENV)
    for name, value in kept.items():
        assert name in ignored or getattr(settings, name) == value
    assert {"port", "gone", "hedge"} & kept.keys() <= ignored.keys()
    assert RouterSettings(**settings.model_dump()) == settings
