"""Go's syntax errors, byte for byte. The texts were taken from a real Ollama 0.24.0 (Go 1.26)."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.simulator.golang.jsonbind import plain
from proxy.simulator.golang.jsonin import EmptyInput, GoError, parse

VALUES = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "unexpected EOF"),
        (b'{"model":"tiny"', "unexpected EOF"),
        (b'{"a":"\\u12', "unexpected EOF"),
        (b'{"model" "tiny"}', "invalid character '\"' after object key"),
        (b"{model:1}", "invalid character 'm' looking for beginning of object key string"),
        (b'{"a":1,}', "invalid character '}' looking for beginning of object key string"),
        (b"[1,]", "invalid character ']' looking for beginning of value"),
        (b'{"a":[1}', "invalid character '}' after array element"),
        (b'{"a":1]', "invalid character ']' after object key:value pair"),
        (b"nope", "invalid character 'o' in literal null (expecting 'u')"),
        (b'{"a":tru}', "invalid character '}' in literal true (expecting 'e')"),
        (b'{"a":01}', "invalid character '1' after object key:value pair"),
        (b'{"a":1.}', "invalid character '}' after decimal point in numeric literal"),
        (b'{"a":1e}', "invalid character '}' in exponent of numeric literal"),
        (b'{"a":-x}', "invalid character 'x' in numeric literal"),
        (b'{"a":"\\x"}', "invalid character 'x' in string escape code"),
        (b'{"a":"\\u12"}', "invalid character '\"' in \\u hexadecimal character escape"),
        (b'{"a":"\n"}', "invalid character '\\n' in string literal"),
        (b'{"a":"\x01"}', "invalid character '\\x01' in string literal"),
        (b"{'a':1}", "invalid character '\\'' looking for beginning of object key string"),
        ("é".encode(), "invalid character 'Ã' looking for beginning of value"),
        (b"\xef\xbb\xbf{}", "invalid character 'ï' looking for beginning of value"),
        (b'{"a":NaN}', "invalid character 'N' looking for beginning of value"),
        (b"[" * 20_000, "exceeded max depth"),
    ],
)
def test_syntax_errors_have_the_text_of_go(body: bytes, message: str) -> None:
    with pytest.raises(GoError) as caught:
        parse(body)
    assert str(caught.value) == message


@pytest.mark.parametrize("body", [b"", b"  \n\t"])
def test_nothing_is_the_end_of_the_input(body: bytes) -> None:
    with pytest.raises(EmptyInput):
        parse(body)


def test_what_follows_the_first_value_is_ignored() -> None:
    assert plain(parse(b'{"a":1} trailing')) == {"a": 1.0}


def test_bytes_that_are_no_utf8_and_lone_surrogates_become_replacement_characters() -> None:
    assert parse(b'"a\xffb"').text() == "a\ufffdb"
    assert parse(b'"\\ud800x"').text() == "\ufffdx"
    assert parse(b'"\\ud83d\\ude00"').text() == "\U0001f600"


@given(VALUES)
def test_valid_json_is_read_as_python_reads_it(value: object) -> None:
    assert plain(parse(json.dumps(value).encode())) == value


@given(st.binary(max_size=200))
def test_arbitrary_bytes_give_a_value_or_an_error(body: bytes) -> None:
    with contextlib.suppress(GoError):
        assert parse(body).end <= len(body)
