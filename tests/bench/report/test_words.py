from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.bench.report import words
from proxy.bench.results import Estimate
from tests.bench import runs

_UNITS = {"s": 1.0, "ms": 1e-3, "µs": 1e-6}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0 s"),
        (0.000012, "12.0 µs"),
        (0.0004996, "500 µs"),
        (0.0009996, "1.00 ms"),
        (0.1514, "151 ms"),
        (0.99949, "999 ms"),
        (0.9996, "1.00 s"),
        (2.6, "2.60 s"),
        (99.96, "100 s"),
        (1234.5, "1,234 s"),
    ],
)
def test_a_duration_has_three_digits_and_the_unit_that_suits_it(value: float, text: str) -> None:
    assert words.seconds(value) == text


@pytest.mark.parametrize(("value", "text"), [(2000.0, "2,000"), (740, "740"), (1.1, "1.1"), (1.0, "1"), (0.1, "0.1")])
def test_a_limit_that_somebody_set_has_the_digits_that_it_was_given(value: float, text: str) -> None:
    assert words.FORMATS["limit"](value) == text


@given(st.floats(min_value=1e-6, max_value=1e6))
def test_the_text_of_a_duration_is_the_duration_to_half_of_its_last_digit(value: float) -> None:
    number, unit = words.seconds(value).split()
    shown = float(number.replace(",", "")) * _UNITS[unit]
    assert shown == pytest.approx(value, rel=0.0051)


@given(st.floats(min_value=1e-9, max_value=1e9))
def test_a_number_has_three_digits_that_count_or_is_whole(value: float) -> None:
    text = words.significant(value).replace(",", "")
    digits = re.sub(r"^[0.]+|\.", "", text)
    assert len(digits) == 3 or (value >= 999 and "." not in text)


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0 B"), (1023, "1,023 B"), (1024, "1.00 KiB"), (2_019_393_189, "1.88 GiB")]
)
def test_sizes_are_in_powers_of_1024(value: float, text: str) -> None:
    assert words.size(value) == text


@pytest.mark.parametrize(
    ("low", "high", "standing"),
    [(1.1, 2.0, "sooner"), (0.5, 0.9, "later"), (0.9, 1.1, "same"), (1.0, 1.2, "same"), (None, None, "unknown")],
)
def test_only_an_interval_without_1_is_a_difference(low: float | None, high: float | None, standing: str) -> None:
    assert words.standing(Estimate(value=1.05, low=low, high=high)) == standing


def test_workloads_are_told_apart_and_the_largest_difference_comes_first() -> None:
    small = runs.workload("small", runs.side(0.2, seed=1), runs.side(0.1, seed=2))
    large = runs.workload("large", runs.side(0.9, seed=1), runs.side(0.1, seed=2))
    few = runs.workload("few", runs.side(0.9, seed=1, calls=2), runs.side(0.1, seed=2, calls=2))
    found = words.by_standing(runs.run((small, *runs.run().workloads, large, few)))
    assert found == {"sooner": [4, 1, 0], "later": [2], "same": [3], "unknown": [5]}


@pytest.mark.parametrize(("names", "text"), [([], ""), (["a"], "a"), (["a", "b", "c"], "a, b and c")])
def test_names_are_listed_as_in_a_sentence(names: list[str], text: str) -> None:
    assert words.listed(names) == text
