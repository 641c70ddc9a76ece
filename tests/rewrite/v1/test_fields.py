"""Which bodies are certain to be taken."""

from __future__ import annotations

import pytest

from proxy.rewrite.v1.fields import CHAT_PATH, Struct, fits, reads_alike
from proxy.wire.gojson import read_object


def takes(body: str) -> bool:
    obj = read_object(body.encode())
    assert obj is not None
    return fits(CHAT_PATH, obj, is_read=True)


@pytest.mark.parametrize("text", ['{"a":1,"a":1}', '{"b":[{"a":{"x":1,"x":2}}]}', '{"a":' + "[" * 20_000, "{"])
def test_a_name_that_stands_twice_is_seen_at_any_depth(text: str) -> None:
    assert not reads_alike(text)


def test_the_same_name_in_two_objects_is_no_repetition() -> None:
    assert reads_alike('{"a":{"a":1},"b":[{"a":1},{"a":2}],"A":0}')


def test_a_struct_takes_null_and_names_that_it_does_not_know() -> None:
    struct = Struct({"name": lambda value: isinstance(value, str)})
    assert struct({"name": None, "other": 5})
    assert not struct({"name": 5})
    assert not struct({"NAME": "x"})
    assert not struct([])


def test_a_number_that_no_float_holds_is_not_taken_even_where_it_is_ignored() -> None:
    assert not takes('{"model":"m","stop":1e400}')
    assert not takes('{"model":"m","messages":[{"content":"x","other":1e999}]}')
    assert takes('{"model":"m","stop":1e300}')


def test_digits_without_end_are_not_taken() -> None:
    assert not takes('{"model":"m","stop":' + "1" * 5000 + "}")
