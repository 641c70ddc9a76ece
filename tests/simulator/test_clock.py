"""Durations and times in Go's forms."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.simulator.golang.clock import MAX_DURATION_NS, duration_text, parse_duration, rfc3339
from proxy.simulator.golang.jsonin import GoError


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [("1h30m", 5400 * 10**9), ("1.5s", 1_500_000_000), ("-1s", -(10**9)), ("0", 0), ("1us", 1000), ("+5s", 5 * 10**9)],
)
def test_durations_are_read(text: str, nanoseconds: int) -> None:
    assert parse_duration(text) == nanoseconds


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", 'time: invalid duration ""'),
        ("abc", 'time: invalid duration "abc"'),
        ("5", 'time: missing unit in duration "5"'),
        ("10x", 'time: unknown unit "x" in duration "10x"'),
        (".", 'time: invalid duration "."'),
        ("9999999h", 'time: invalid duration "9999999h"'),
        ("é", 'time: invalid duration "\\xc3\\xa9"'),
    ],
)
def test_bad_durations_have_the_text_of_go(text: str, message: str) -> None:
    with pytest.raises(GoError) as caught:
        parse_duration(text)
    assert str(caught.value) == message


@given(st.integers(-MAX_DURATION_NS, MAX_DURATION_NS))
def test_a_duration_reads_back_as_itself(nanoseconds: int) -> None:
    assert parse_duration(duration_text(nanoseconds)) == nanoseconds


def test_times_have_no_trailing_zeros() -> None:
    assert rfc3339(0) == "1970-01-01T00:00:00Z"
    assert rfc3339(1_795_236_265_185_667_600) == "2026-11-21T04:44:25.1856676Z"
