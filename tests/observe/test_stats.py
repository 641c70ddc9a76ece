from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.observe.stats import MOST_MODELS, Stats, percentile, summary
from proxy.observe.timeline import Outcome, Timeline
from proxy.wire.routes import Family


def call(ttft_s: float | None, total_s: float, **marks: object) -> Timeline:
    first = None if ttft_s is None else ttft_s
    return Timeline(
        "id", "api_chat", Family.API, "/api/chat", "POST", 0.0, first_token=first, finished=total_s, **marks
    )  # type: ignore[arg-type]


def test_first_token_and_total_are_summed_up_per_model() -> None:
    stats = Stats()
    for n in range(1, 101):
        stats.add("a:latest", call(n / 64, n / 8, load_duration_s=0.001))
    stats.add("a:latest", call(2.0, 3.0, load_wait_s=1.5))
    stats.add("b:latest", call(None, 1.0, outcome=Outcome.CANCELLED))

    snapshot = stats.snapshot()

    a, b = snapshot["models"]["a:latest"], snapshot["models"]["b:latest"]
    assert a["calls"] == 101
    assert a["outcomes"] == {"ok": 101}
    assert a["starts"] == {"warm": 100, "cold": 1}
    assert a["ttft"]["count"] == 101
    assert a["ttft_warm"]["p50_s"] == pytest.approx(50.5 / 64, abs=1e-6)
    assert a["ttft_cold"]["max_s"] == 2.0
    assert a["total"]["max_s"] == 12.5
    assert b["ttft"] is None
    assert b["outcomes"] == {"cancelled": 1}


def test_only_the_window_counts_but_totals_go_on() -> None:
    stats = Stats(window=10)
    for n in range(100):
        stats.add("a", call(1.0 if n < 90 else 0.25, 2.0))

    a = stats.snapshot()["models"]["a"]

    assert (a["calls"], a["ttft"]["count"], a["ttft"]["max_s"]) == (100, 10, 0.25)


def test_models_come_and_go_in_bounded_memory() -> None:
    stats = Stats(window=1)
    for n in range(500):
        stats.add("always", call(1.0, 1.0))
        stats.add(f"m{n}", call(1.0, 1.0))

    models = stats.snapshot()["models"]
    assert len(models) == MOST_MODELS
    assert "always" in models
    assert "m499" in models


_SECONDS = st.lists(st.floats(min_value=0, max_value=1e4), min_size=2, max_size=200)


@given(values=_SECONDS)
def test_figures_are_those_of_the_textbook(values: list[float]) -> None:
    found = summary(values)

    assert found is not None
    quantiles = statistics.quantiles(values, n=100, method="inclusive")
    assert found["p50_s"] == pytest.approx(quantiles[49], abs=1e-5)
    assert found["p90_s"] == pytest.approx(quantiles[89], abs=1e-5)
    assert found["p95_s"] == pytest.approx(quantiles[94], abs=1e-5)
    assert found["mean_s"] == pytest.approx(statistics.fmean(values), abs=1e-5)
    assert found["variance_s2"] == pytest.approx(statistics.pvariance(values), rel=1e-6, abs=1e-5)
    assert found["min_s"] <= found["p50_s"] <= found["p90_s"] <= found["p95_s"] <= found["max_s"]


def test_one_value_is_its_own_percentile() -> None:
    assert percentile([3.0], 95) == 3.0
    assert summary([3.0]) == {
        "count": 1,
        "mean_s": 3.0,
        "variance_s2": 0.0,
        "stddev_percent": 0.0,
        "p50_s": 3.0,
        "p90_s": 3.0,
        "p95_s": 3.0,
        "min_s": 3.0,
        "max_s": 3.0,
    }
    assert summary([]) is None
