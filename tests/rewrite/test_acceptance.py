from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.rewrite.acceptance import GENERATE_FIELDS, refused_field
from proxy.wire.gojson import read_object


def refused(members: str) -> str:
    obj = read_object(f"{{{members}}}".encode())
    assert obj is not None
    return refused_field(obj)


@pytest.mark.parametrize(
    "members",
    [
        *['"model":null,"prompt":null,"stream":null,"options":null,"images":null,"context":null,"keep_alive":null'],
        *['"think":true', '"think":"max"', '"format":{"a":[1]}', '"format":"yaml"', '"format":1e999', '"unknown":[]'],
        *['"keep_alive":-1', '"keep_alive":"5m"', '"keep_alive":0.5', '"top_logprobs":20', '"width":2147483647'],
        *['"context":[]', '"context":[-1,9223372036854775807]', '"images":[]', '"images":["","aGk=","aG\\r\\nk="]'],
        *['"options":{"num_ctx":1.5,"seed":-0,"stop":[],"use_mmap":false,"top_p":1,"warp":[{"a":9}]}'],
        *['"context":[null,5]', '"options":{"x":"1e999 \\\\"}', '"options":{"x":1e307,"y":1e-999}'],
        *['"options":{"num_ctx":null,"stop":null,"NUM_CTX":"big"}'],
    ],
)
def test_what_ollama_takes_is_not_refused(members: str) -> None:
    assert refused(members) == ""


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("model", ["1", "[]", "{}", "true"]),
        ("prompt", ["5", "[]"]),
        ("stream", ['"true"', "1"]),
        ("raw", ["0", '""']),
        ("context", ["1", '"x"', "[1.0]", "[1e2]", '["1"]', "[true]", "[9223372036854775808]", "[[1]]", "{}"]),
        ("keep_alive", ['"abc"', '"5"', "true", "[]", "1e999", '"99999999999h"', "9" * 5000]),
        (
            "images",
            ['"aGk="', '["aGk"]', '["a Gk="]', '["aGk=="]', '["aGk=aGk="]', '["====="]', '["a_-="]', '["\u00e4aaa"]'],
        ),
        ("think", ["1", '"yes"', '"High"', "[]"]),
        ("top_logprobs", ["21", "-1", "1.0", '"1"', "true"]),
        ("width", ["2147483648", "1.5"]),
        (
            "options",
            [
                "[]",
                '"x"',
                '{"num_ctx":1e999,"num_ctx":1}',
                '{"num_ctx":"big"}',
                '{"num_ctx":true}',
                '{"stop":"x"}',
                '{"stop":[1]}',
            ],
        ),
        ("options", ['{"use_mmap":1}', '{"temperature":"0"}', '{"warp":[{"a":1e999}]}', f'{{"warp":{"9" * 400}}}']),
    ],
)
def test_what_ollama_refuses_is_named(field: str, values: list[str]) -> None:
    for value in values:
        assert refused(f'"stream":true,"{field}":{value}') == field


@given(
    st.dictionaries(
        st.sampled_from(sorted(GENERATE_FIELDS)),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
            max_leaves=6,
        ),
    )
)
def test_any_value_has_a_verdict(members: dict[str, object]) -> None:
    obj = read_object(json.dumps(members).encode())
    assert obj is not None
    assert refused_field(obj) in {"", *members}
