from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.durations import parse_go_duration, parse_keep_alive

_MAX_NS = (1 << 63) - 1


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("-0", 0),
        ("5m", 300),
        ("+1h2m3.5s", 3723.5),
        ("-1m", -60),
        (".5s", 0.5),
        ("1.s", 1),
        ("1us2\u00b5s3\u03bcs", 6e-6),
        ("1ns", 1e-9),
        ("0.1ns", 0),
        ("00000000000000000000000001s", 1),
        ("9223372036854775807ns", _MAX_NS / 1e9),
        ("-9223372036854775808ns", -(_MAX_NS + 1) / 1e9),
        ("0.3333333333333333333h", 1200),
        ("0.100000000000000000000h", 360),
    ],
)
def test_durations_read_as_go_reads_them(text: str, seconds: float) -> None:
    assert parse_go_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", 'time: invalid duration ""'),
        ("abc", 'time: invalid duration "abc"'),
        ("-", 'time: invalid duration "-"'),
        ("5", 'time: missing unit in duration "5"'),
        ("5m3", 'time: missing unit in duration "5m3"'),
        ("1d", 'time: unknown unit "d" in duration "1d"'),
        ("1 s", 'time: unknown unit " s" in duration "1 s"'),
        (".s", 'time: invalid duration ".s"'),
        ("9223372036854775808ns", 'time: invalid duration "9223372036854775808ns"'),
        ("99999999999h", 'time: invalid duration "99999999999h"'),
        ('1\xe4"\\', 'time: unknown unit "\\xc3\\xa4\\"\\\\" in duration "1\\xc3\\xa4\\"\\\\"'),
    ],
)
def test_errors_have_gos_text(text: str, error: str) -> None:
    with pytest.raises(ValueError, match=r".*") as raised:
        parse_go_duration(text)
    assert str(raised.value) == error


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        (0, 0),
        (0.5, 0.5),
        (1e-10, 0),
        (-0.0, 0),
        (-1, math.inf),
        (-0.1, math.inf),
        ("-1s", math.inf),
        ("5m", 300),
    ],
)
def test_keep_alive_is_seconds_or_for_ever(value: object, seconds: float | None) -> None:
    assert parse_keep_alive(value) == seconds


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (True, "Unsupported type: 'bool'"),
        ([], "Unsupported type: '[]interface {}'"),
        ({}, "Unsupported type: 'map[string]interface {}'"),
        ("abc", 'time: invalid duration "abc"'),
        (1e10, "keep_alive is out of range: 10000000000.0"),
        (-math.inf, "keep_alive is out of range: -inf"),  # what -1e400 reads as
        (10**400, "keep_alive is out of range: 1000000000000000000000000000000000000000"),
    ],
)
def test_what_ollama_refuses_is_an_error(value: object, error: str) -> None:
    with pytest.raises(ValueError, match=r".*") as raised:
        parse_keep_alive(value)
    assert str(raised.value) == error


@given(st.integers(0, 10**6), st.integers(0, 59), st.integers(0, 59), st.integers(0, 999))
def test_terms_add_up(hours: int, minutes: int, seconds: int, ms: int) -> None:
    assert parse_go_duration(f"{hours}h{minutes}m{seconds}s{ms}ms") == pytest.approx(
        hours * 3600 + minutes * 60 + seconds + ms / 1000
    )


@given(st.text(alphabet="0123456789.+-hmsnu\u00b5 x"))
def test_any_text_is_a_duration_or_a_value_error(text: str) -> None:
    try:
        seconds = parse_go_duration(text)
    except ValueError:
        return
    assert math.isfinite(seconds)
