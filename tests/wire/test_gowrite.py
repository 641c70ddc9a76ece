"""Numbers and texts in Go's notation."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.simulator.golang import jsonout
from proxy.wire.gowrite import compact, go_number, go_text, rewritten


@pytest.mark.parametrize(
    ("shortest", "text"),
    [
        ("0.0", "0"),
        ("-0.0", "-0"),
        ("1.0", "1"),
        ("0.1", "0.1"),
        ("1e-06", "0.000001"),
        ("1e-07", "1e-7"),
        ("1e+20", "100000000000000000000"),
        ("1e+21", "1e+21"),
        ("1.5e+300", "1.5e+300"),
        ("123456.75", "123456.75"),
    ],
)
def test_a_number_is_written_as_go_writes_it(shortest: str, text: str) -> None:
    assert go_number(shortest) == text


@pytest.mark.parametrize("shortest", ["inf", "nan"])
def test_there_is_no_json_for_some(shortest: str) -> None:
    with pytest.raises(ValueError, match="unsupported"):
        go_number(shortest)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_reads_as_the_same_float(value: float) -> None:
    read = float(go_number(repr(value)))
    assert read == value
    assert math.copysign(1, read) == math.copysign(1, value)


def test_integers_went_through_a_float() -> None:
    assert go_text(2**53) == "9007199254740992"
    assert go_text(2**53 + 1) == "9007199254740992"
    assert go_text(12345678901234567890) == "12345678901234567000"
    with pytest.raises(ValueError, match="too large"):
        go_text(10**400)


JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-5, 5), st.floats(allow_nan=False, allow_infinity=False), st.text()
    ),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
    max_leaves=8,
)


@given(JSON)
def test_a_value_is_what_the_simulated_ollama_writes(value: object) -> None:
    assert go_text(value) == jsonout.marshal(jsonout.as_go_map(value))


@given(JSON)
def test_a_compact_text_is_the_same_value(value: object) -> None:
    written = compact(json.dumps(value, indent=2, ensure_ascii=False))
    assert json.loads(written) == value
    assert "<" not in written


def test_an_escaped_replacement_is_written_as_itself_the_second_time() -> None:
    assert rewritten('"a\\ufffdb\\\\ufffd\\\\\\ufffd"') == '"a\ufffdb\\\\ufffd\\\\\ufffd"'
