from __future__ import annotations

import random
from statistics import NormalDist, fmean, median
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.bench import statistics
from proxy.bench.results import Estimate, ModelInfo, Parts
from proxy.bench.statistics import alone
from tests.bench.runs import sample

if TYPE_CHECKING:
    from proxy.bench.results import Sample

DURATIONS = st.floats(min_value=1e-3, max_value=1e3)
SOME = st.lists(DURATIONS, min_size=statistics.FEWEST, max_size=12)
# Bootstrapping is slow, and a property of it does not need a hundred examples.
few = settings(max_examples=8)


def whole(estimate: Estimate | None) -> tuple[float, float, float]:
    assert estimate is not None
    assert estimate.low is not None
    assert estimate.high is not None
    return estimate.low, estimate.value, estimate.high


@few
@given(SOME)
def test_each_figure_is_inside_of_its_interval_and_each_interval_inside_of_the_samples(values: list[float]) -> None:
    found = statistics.summary(alone(values))
    assert found is not None
    for estimate in (found.mean_s, found.p50_s, found.p90_s, found.p95_s):
        low, value, high = whole(estimate)
        # Summaries are rounded to a microsecond.
        assert min(values) - 1e-6 <= low <= value <= high <= max(values) + 1e-6
    low, value, high = whole(found.variance_percent)
    assert 0 <= low <= value <= high
    assert found.p50_s.value <= found.p90_s.value <= found.p95_s.value <= found.max_s
    assert found.mean_s.value == pytest.approx(fmean(values), abs=1e-6)


@few
@given(SOME, st.randoms(use_true_random=False))
def test_the_order_of_samples_does_not_change_a_summary_but_for_chance(
    values: list[float], chance: random.Random
) -> None:
    mixed = list(values)
    chance.shuffle(mixed)
    first, second = statistics.summary(alone(values)), statistics.summary(alone(mixed))
    assert first is not None
    assert second is not None
    assert (first.mean_s.value, first.p95_s.value) == (second.mean_s.value, second.p95_s.value)
    assert statistics.summary(alone(values)) == first


@few
@given(SOME, st.floats(min_value=0.1, max_value=10))
def test_a_side_that_is_so_many_times_slower_has_that_ratio(values: list[float], factor: float) -> None:
    found = statistics.ratio_of(alone(value * factor for value in values), alone(values))
    assert found is not None
    assert found.mean.value == pytest.approx(factor)
    assert found.p50.value == pytest.approx(factor)
    low, _, high = whole(found.mean)
    assert low <= factor * (1 + 1e-9)
    assert high >= factor * (1 - 1e-9)


@few
@given(SOME, SOME)
def test_higher_confidence_never_has_the_narrower_interval(before: list[float], after: list[float]) -> None:
    usual, higher = (
        statistics.ratio_of(alone(before), alone(after)),
        statistics.ratio_of(alone(before), alone(after), 0.999),
    )
    assert usual is not None
    assert higher is not None
    assert whole(higher.mean)[0] <= whole(usual.mean)[0]
    assert whole(higher.mean)[2] >= whole(usual.mean)[2]


@pytest.mark.parametrize("count", range(1, statistics.FEWEST))
def test_too_few_samples_have_figures_but_no_interval(count: int) -> None:
    values = [0.1 * (place + 1) for place in range(count)]
    found = statistics.summary(alone(values))
    assert found is not None
    assert found.mean_s == Estimate(value=round(fmean(values), 6), low=None, high=None)
    ratio = statistics.ratio_of(alone(values), alone([1.0] * 20))
    assert ratio is not None
    assert ratio.mean.low is ratio.mean.high is None


def test_nothing_has_no_figures() -> None:
    assert statistics.summary([]) is None
    assert statistics.rate([]) is None
    assert statistics.ratio_of([], [[1.0]]) is statistics.ratio_of([[1.0]], []) is None
    assert statistics.ratio_of([[0.0]] * 5, [[1.0]] * 5) is None
    figures = statistics.figures([])
    assert (figures.ttft, figures.total, figures.tokens_per_s, figures.parts, figures.calls) == (None,) * 4 + (0,)


@pytest.mark.parametrize("count", [5, 10, 30])
def test_the_interval_of_a_mean_holds_the_true_one_about_as_often_as_it_says(count: int) -> None:
    chance = random.Random(count)
    tries = 100
    held = 0
    for _ in range(tries):
        low, _, high = whole(statistics.estimate(alone(chance.gauss(10, 1) for _ in range(count)), fmean))
        held += low <= 10 <= high
    # Of 95 three standard deviations are 6.5.
    assert held >= 88


def test_a_difference_is_seen_where_there_is_one_and_not_seen_where_there_is_none() -> None:
    chance = random.Random(4)
    first, second, slower = (alone(chance.gauss(mean, 0.1) for _ in range(60)) for mean in (1.0, 1.0, 1.2))
    none, some = statistics.ratio_of(first, second), statistics.ratio_of(slower, first)
    assert none is not None
    assert some is not None
    assert whole(none.mean)[0] < 1 < whole(none.mean)[2]
    assert whole(some.mean)[0] > 1.1


@pytest.mark.parametrize(("freedom", "exact"), [(4, 2.776), (9, 2.262), (29, 2.045), (1000, 1.962)])
def test_the_quantile_is_that_of_the_printed_tables(freedom: int, exact: float) -> None:
    assert statistics._t_quantile(0.975, freedom) == pytest.approx(exact, rel=0.01)
    assert statistics._t_quantile(0.5, freedom) == pytest.approx(NormalDist().inv_cdf(0.5))


def test_excluded_and_failed_calls_are_in_no_figure_of_time() -> None:
    calls = [
        sample(9.0, call=0, excluded="warm-up"),
        sample(0.1, call=1),
        sample(0.3, call=2, cold=True),
        sample(None, call=3, error="answered 500"),
        sample(7.0, call=0, excluded="background", error="left"),
    ]
    found = statistics.figures(calls)
    assert (found.calls, found.errors, found.cold) == (3, 1, 1)
    assert found.ttft is not None
    assert (found.ttft.count, found.ttft.min_s, found.ttft.max_s) == (2, 0.1, 0.3)
    assert statistics.ttfts(calls) == [0.1, 0.3]


def test_tokens_per_second_are_those_after_the_first() -> None:
    found = statistics.figures([sample(5.0, tokens=8, total_s=5.07), sample(0.1, tokens=1, total_s=0.1)])
    assert found.tokens_per_s is not None
    assert found.tokens_per_s.value == pytest.approx(7 / 0.07)


def test_each_part_is_the_mean_of_those_who_know_it() -> None:
    calls = [
        sample(0.3, parts=Parts(load_s=0.2, prompt_s=0.1)),
        sample(0.2, parts=Parts(load_s=0.0, prompt_s=0.1, queue_s=0.1)),
        sample(0.2),
    ]
    assert statistics.figures(calls).parts == Parts(queue_s=0.1, load_s=0.1, prompt_s=pytest.approx(0.1))


def test_first_second_and_tenth_calls_are_told_apart_over_all_runs() -> None:
    calls = [sample(run + call / 10, run=run, call=call) for run in (1, 2) for call in range(1, 11)]
    found = {each.call: each.ttft_s.value for each in statistics.figures(calls).positions}
    assert found == pytest.approx({1: 1.6, 2: 1.7, 10: 2.5})
    assert statistics.figures(calls[:1]).positions == ()


def test_a_model_is_measured_cold_and_warm_apart() -> None:
    cold, warm = Parts(load_s=2.0, prompt_s=0.1), Parts(load_s=0.001, prompt_s=0.05)
    calls = [
        sample(9.0, excluded="warm-up", cold=True, parts=cold),
        sample(2.2, cold=True, parts=cold),
        *(sample(0.1, prompt_tokens=20, parts=warm) for _ in range(6)),
    ]
    found = statistics.model(ModelInfo(name="m"), calls)
    assert found.load_s is not None
    assert found.load_s.value == 2.0
    assert found.prompt_tokens_per_s is not None
    assert found.prompt_tokens_per_s.value == pytest.approx(400)
    assert found.ttft_cold is not None
    assert found.ttft_warm is not None
    assert (found.ttft_cold.count, found.ttft_cold.max_s) == (1, 2.2)
    assert (found.ttft_warm.count, found.ttft_warm.max_s) == (6, 0.1)


def test_many_samples_are_resampled_less_often() -> None:
    assert [statistics._times(count) for count in (5, 100, 500, 100_000)] == [1000, 1000, 400, 200]
    assert median([1.0, 2.0, 4.0]) == statistics._p50([4.0, 1.0, 2.0])


def of_runs(first_s: float, later_s: float, runs: int) -> list[Sample]:
    """Runs of three calls, the first of which takes its own time; all a little apart."""
    return [
        sample((first_s if call == 1 else later_s) * (1 + 0.02 * run), run=run, call=call)
        for run in range(1, runs + 1)
        for call in (1, 2, 3)
    ]


def test_calls_that_differ_on_purpose_do_not_hide_a_difference_where_there_are_enough_runs() -> None:
    """Resampled by calls, a draw may have no first call at all; by runs, each has as many as there are."""
    wide = statistics.ratio_of(*(statistics.grouped_ttfts(of_runs(first, 0.1, 4)) for first in (3.0, 2.0)))
    close = statistics.ratio_of(*(statistics.grouped_ttfts(of_runs(first, 0.1, 5)) for first in (3.0, 2.0)))
    assert wide is not None
    assert close is not None
    assert wide.mean.value == pytest.approx(close.mean.value, rel=0.02)
    assert whole(wide.mean)[0] < 1
    assert whole(close.mean)[0] > 1.2
    found = statistics.figures(of_runs(3.0, 0.1, 5))
    assert found.ttft is not None
    assert found.ttft.count == 15
    low, _, high = whole(found.ttft.mean_s)
    assert high - low < 0.2


def test_a_disturbance_that_falls_on_whole_runs_widens_the_interval() -> None:
    chance = random.Random(8)
    runs = [chance.choice((0.1, 0.5)) for _ in range(8)]
    disturbed = [sample(slow * chance.uniform(0.99, 1.01), run=run) for run, slow in enumerate(runs) for _ in range(20)]
    apart = statistics.summary(alone(statistics.ttfts(disturbed)))
    together = statistics.figures(disturbed).ttft
    assert apart is not None
    assert together is not None
    (low, value, high), (least, same, most) = whole(apart.mean_s), whole(together.mean_s)
    assert same == value
    assert most - least > 2 * (high - low)
