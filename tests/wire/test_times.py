from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.times import parse_time


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1970-01-01T00:00:01Z", 1.0),
        ("2026-11-21T04:44:25.440925022Z", 1795236265.440925),
        ("2026-11-21T06:44:25.440925022+02:00", 1795236265.440925),
        ("2319-03-03T04:31:42.295780698Z", 11018608302.29578),
        ("soon", None),
        (None, None),
        (5, None),
    ],
)
def test_times_are_read_as_go_writes_them(text: object, expected: float | None) -> None:
    assert parse_time(text) == expected


@given(st.text() | st.none() | st.integers())
def test_no_time_that_makes_no_sense_raises(text: object) -> None:
    assert parse_time(text) is None or isinstance(parse_time(text), float)
