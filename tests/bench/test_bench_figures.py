"""Verdicts: a target is met by the median of the ratios, or by the worst where that counts."""

from figures import FIGURES, TITLES, summarise
from scenarios import SCENARIOS


def _row(scenario, figure, rounds):
    return next(row for row in summarise(scenario, rounds) if row["figure"] == figure)


def _round(nginx, herd):
    return {"nginx": nginx, "herd": herd}


def test_a_ratio_is_taken_within_each_round():
    rounds = [
        _round({"cpu_us": 10}, {"cpu_us": 40}),
        _round({"cpu_us": 20}, {"cpu_us": 120}),
        _round({"cpu_us": 10}, {"cpu_us": 45}),
    ]

    row = _row("small", "cpu_us", rounds)

    assert row["ratio"] == (4.5, 4.0, 6.0)
    assert row["met"] is True


def test_a_missed_ratio_is_not_met():
    assert _row("stream", "cpu_us", [_round({"cpu_us": 10}, {"cpu_us": 16})])["met"] is False


def test_one_lost_stream_in_one_round_is_not_met():
    rounds = [_round({"dropped": 0}, {"dropped": lost}) for lost in (0, 0, 1)]

    assert _row("slow5000", "dropped", rounds)["met"] is False
    assert _row("slow5000", "dropped", rounds[:2])["met"] is True


def test_without_nginx_ratios_are_not_known_but_values_are_judged():
    rounds = [{"herd": {"cpu_us": 40, "max_ms": 3.0}}]

    assert _row("small", "cpu_us", rounds)["met"] is None
    assert _row("small", "cpu_us", rounds)["herd"] == (40, 40, 40)
    assert _row("disconnect", "max_ms", rounds)["met"] is True


def test_every_scenario_has_a_title_and_figures():
    assert set(SCENARIOS) == set(FIGURES) == set(TITLES)


def test_plain_python_has_a_row_of_its_own_and_no_verdict():
    rounds = [{**_round({"cpu_us": 10}, {"cpu_us": 40}), "plain": {"cpu_us": 60}}]

    compiled, plain = (_row("small", key, rounds) for key in ("cpu_us", "cpu_us plain"))

    assert (compiled["herd"][0], compiled["ratio"][0], compiled["met"]) == (40, 4.0, True)
    assert (plain["herd"][0], plain["ratio"][0]) == (60, 6.0)
    assert (plain["target"], plain["met"]) == ("", None)
