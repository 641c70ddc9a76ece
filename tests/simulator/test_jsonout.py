"""JSON as Go's ``json.Marshal`` writes it. The expected texts were written by Go 1.26."""

from __future__ import annotations

import json
import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.simulator.golang.jsonout import Float32, GoMap, RawJson, as_go_map, marshal, number
from proxy.wire.gojson import go_quote


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.1, "0.1"), (1e-7, "1e-7"), (1e21, "1e+21"), (1e20, "100000000000000000000"), (123456789.0, "123456789"),
        (1.5e-6, "0.0000015"), (100.0, "100"), (5e-324, "5e-324"), (0.0, "0"), (-0.0, "-0"), (-1.25, "-1.25"),
        (Float32(0.10925009), "0.10925009"), (Float32(1e-5), "0.00001"), (Float32(0.0006210568), "0.0006210568"),
    ],
)  # fmt: skip
def test_numbers_have_the_digits_of_go(value: float, text: str) -> None:
    assert number(value) == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_reads_back_as_itself(value: float) -> None:
    assert float(number(value)) == value


@given(st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_a_32_bit_number_reads_back_as_itself(value: float) -> None:
    assert struct.unpack("<f", struct.pack("<f", float(number(Float32(value)))))[0] == value


def test_infinity_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="unsupported"):
        number(math.inf)


def test_html_and_line_separators_are_escaped() -> None:
    assert go_quote("<a>&\u2028\u2029") == '"\\u003ca\\u003e\\u0026\\u2028\\u2029"'
    assert go_quote('\x00\x08\x0c\n\r\t\x1f\x7f"\\') == '"\\u0000\\b\\f\\n\\r\\t\\u001f\x7f\\"\\\\"'
    assert go_quote("\ud800é") == '"\\ufffdé"'


@given(st.text())
def test_text_reads_back_as_itself(text: str) -> None:
    assert json.loads(go_quote(text)) == text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def test_maps_are_sorted_and_structs_keep_their_order() -> None:
    assert marshal({"b": 1, "a": GoMap({"z": None, "y": [True, False]})}) == '{"b":1,"a":{"y":[true,false],"z":null}}'
    assert marshal(as_go_map({"b": [{"d": 1, "c": 2}], "a": 1})) == '{"a":1,"b":[{"c":2,"d":1}]}'


def test_raw_json_loses_its_spaces_and_nothing_else() -> None:
    assert marshal({"x": RawJson('{"b" : 1.50,\n "a b": "c <d"}')}) == '{"x":{"b":1.50,"a b":"c \\u003cd"}}'
