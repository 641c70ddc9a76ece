"""Calls of tools in both shapes."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.rewrite.v1.toolcalls import to_native, to_openai
from tests.rewrite.v1.bodies import JUNK, TEXT


def test_a_native_call_has_its_arguments_as_a_text_of_go() -> None:
    call = {"id": "call_1", "function": {"index": 2, "name": "f", "arguments": {"z": "<b>", "a": [1.0, 1e21, 12]}}}
    assert to_openai([call]) == (
        '[{"id":"call_1","index":2,"type":"function","function":'
        '{"name":"f","arguments":"{\\"z\\":\\"\\\\u003cb\\\\u003e\\",\\"a\\":[1,1e+21,12]}"}}]'
    )


def test_members_inside_of_an_argument_are_sorted_as_go_sorts_a_map() -> None:
    call = {"function": {"name": "f", "arguments": {"z": {"b": 1, "a": 2}}}}
    assert json.loads(to_openai([call]))[0]["function"]["arguments"] == '{"z":{"a":2,"b":1}}'


@given(st.dictionaries(TEXT, JUNK, max_size=3))
def test_arguments_come_back_as_they_went(arguments: dict[str, object]) -> None:
    there = to_openai([{"id": "c", "function": {"index": 0, "name": "f", "arguments": arguments}}])
    back = to_native(json.loads(there))
    assert back is not None
    assert json.loads(back)[0]["function"]["arguments"] == arguments


@pytest.mark.parametrize("call", [{}, 5, {"function": None}])
def test_what_is_no_call_is_told(call: object) -> None:
    with pytest.raises(ValueError, match="without a function"):
        to_openai([call])
