"""Two requests have the same key exactly where they ask the same of the same model for the same client."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from proxy.reuse.key import (
    MAX_BODY_BYTES,
    Keys,
    Mode,
    bypass_reason,
    canonical,
    canonical_without,
    is_deterministic,
    sampling_options,
)
from proxy.wire.gojson import read_object
from proxy.wire.routes import classify

if TYPE_CHECKING:
    import random

    from proxy.wire.headers import Field

# Of "text" the order counts; see the test about schemas.
NAMES = st.text("abcdefghijklmnopqrstuvwxyzäß_", min_size=1, max_size=4).filter(lambda name: name != "text")
NUMBERS = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
SCALARS = st.none() | st.booleans() | NUMBERS | st.text(st.characters(codec="utf-8"), max_size=8)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=12,
)
BODIES = st.dictionaries(NAMES, VALUES, max_size=5)


def has_odd_names(value: Any) -> bool:
    if isinstance(value, dict):
        return len({name.casefold() for name in value}) != len(value) or any(map(has_odd_names, value.values()))
    return isinstance(value, list) and any(map(has_odd_names, value))


def shuffled(value: Any, chance: random.Random) -> Any:
    if isinstance(value, dict):
        names = list(value)
        chance.shuffle(names)
        return {name: shuffled(value[name], chance) for name in names}
    return [shuffled(item, chance) for item in value] if isinstance(value, list) else value


def spelt(value: Any, chance: random.Random) -> bytes:
    separators = (chance.choice((",", " , ", ",\n\t")), chance.choice((":", ": ", "\r\n:")))
    text = json.dumps(value, separators=separators, ensure_ascii=chance.random() < 0.5)
    return chance.choice(("", " ", "\n")).join(("", text, "")).encode()


def typed(value: Any) -> Any:
    """A value that is only equal to another one where JSON tells no difference."""
    if isinstance(value, dict):
        return {name: typed(item) for name, item in value.items()}
    if isinstance(value, list):
        return [typed(item) for item in value]
    return (type(value).__name__, repr(value))


# --- canonical form


@given(BODIES, st.randoms(use_true_random=False))
def test_order_spaces_and_escapes_never_change_it(body: dict[str, Any], chance: random.Random) -> None:
    assume(not has_odd_names(body))
    plain = canonical(json.dumps(body).encode())
    assert plain is not None
    assert canonical(spelt(shuffled(body, chance), chance)) == plain
    assert canonical(plain) == plain


@given(BODIES, BODIES)
def test_different_values_always_differ(one: dict[str, Any], other: dict[str, Any]) -> None:
    assume(not has_odd_names(one) and not has_odd_names(other))
    same = typed(one) == typed(other)
    assert (canonical(json.dumps(one).encode()) == canonical(json.dumps(other).encode())) is same


@given(BODIES, NAMES, VALUES, VALUES)
def test_one_changed_member_always_shows(body: dict[str, Any], name: str, one: Any, other: Any) -> None:
    assume(typed(one) != typed(other))
    assume(not has_odd_names(body | {name: one}) and not has_odd_names(body | {name: other}))
    assert canonical(json.dumps(body | {name: one}).encode()) != canonical(json.dumps(body | {name: other}).encode())


@given(st.binary(max_size=40) | st.text(max_size=40).map(str.encode))
def test_no_bytes_make_it_fail(body: bytes) -> None:
    canonical(body)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (b'{"seed":1}', b'{"seed":1.0}', False),
        (b'{"a":1.0}', b'{"a":1.00}', True),
        (b'{"a":1e2}', b'{"a":100.0}', True),
        (b'{"a":0.1}', b'{"a":0.10000000000000002}', False),
        (b'{"a":9007199254740993}', b'{"a":9007199254740992}', False),
        (b'{"a":"\\u0041"}', b'{"a":"A"}', True),
        (b'{"a":null}', b"{}", False),
        (b'{"a":[1,2]}', b'{"a":[2,1]}', False),
        (b'{"model":"a"}', b'{"Model":"a"}', False),
        (b'{"a":1}', b'{"a":1} {"what Go":"ignores"}', True),
    ],
)
def test_what_is_the_same(one: bytes, other: bytes, same: bool) -> None:
    assert canonical(one) is not None
    assert (canonical(one) == canonical(other)) is same


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"nonsense",
        b'{"a":1,"a":2}',
        b'{"a":1,"A":2}',
        b'{"options":{"seed":1,"seed":2}}',
        b'{"messages":[{"content":"a","Content":"b"}]}',
        b'{"a":NaN}',
        b'{"a":1e999}',
        b'{"a":18446744073709551617}',
        b'{"a":"\\ud800"}',
        b'{"a":"\xff"}',
        b'{"a":' + b"[" * 3000 + b"]" * 3000 + b"}",
        b'{"a":' + b"1" * 5000 + b"}",
    ],
)
def test_what_has_two_readings_or_none_is_never_compared(body: bytes) -> None:
    assert canonical(body) is None


def test_keep_alive_does_not_matter_where_something_is_generated() -> None:
    forms = {
        canonical(b'{"model":"m","prompt":"hi"%b}' % more) for more in (b"", b',"keep_alive":0', b',"keep_alive":"5m"')
    }
    assert len(forms) == 1


def test_a_load_and_an_unload_are_not_the_same() -> None:
    assert canonical(b'{"model":"m","keep_alive":0}') != canonical(b'{"model":"m","keep_alive":-1}')
    assert canonical(b'{"model":"m","prompt":"","keep_alive":0}') != canonical(b'{"model":"m","prompt":""}')


@pytest.mark.parametrize("name", ["format", "tools", "response_format"])
def test_the_order_within_a_schema_matters(name: str) -> None:
    forwards = b'{"%b":{"properties":{"a":{},"b":{}}}}' % name.encode()
    backwards = b'{"%b":{"properties":{"b":{},"a":{}}}}' % name.encode()
    assert None is not canonical(forwards) != canonical(backwards)


def test_a_stream_is_the_default_of_native_routes_only() -> None:
    said, unsaid, refused = b'{"prompt":"a","stream":true}', b'{"prompt":"a"}', b'{"prompt":"a","stream":false}'
    assert canonical(said, native=True) == canonical(unsaid, native=True) != canonical(refused, native=True)
    assert canonical(said) != canonical(unsaid)


def test_a_named_member_can_be_left_out() -> None:
    assert canonical_without(b'{"model":"m","input":"a","keep_alive":1}', ("input",)) == b'{"model":"m"}'


# --- what may be stored


@pytest.mark.parametrize(
    ("options", "parameters", "answer"),
    [
        ({}, {}, False),
        ({"temperature": 0}, {}, True),
        ({"temperature": 0.0}, {}, True),
        ({"temperature": 0.1}, {}, False),
        ({"temperature": False}, {}, False),
        ({"temperature": "0"}, {}, False),
        ({"seed": 0}, {}, True),
        ({"seed": 42, "temperature": 1}, {}, True),
        ({"seed": -1}, {}, False),
        ({"seed": 2**32 - 1}, {}, False),
        ({"seed": True}, {}, False),
        ({"seed": 1.5}, {}, False),
        ({}, {"temperature": 0}, True),
        ({"temperature": None}, {"temperature": 0}, True),
        ({"temperature": 0.8}, {"temperature": 0}, False),
        ({"temperature": 0.8}, {"seed": 7}, True),
        ({"seed": -1}, {"seed": 7}, False),
        ({}, {"temperature": [0, 1]}, False),
    ],
)
def test_an_answer_is_certain_at_temperature_0_or_with_a_seed(
    options: dict[str, Any], parameters: dict[str, Any], answer: bool
) -> None:
    assert is_deterministic(options, parameters) is answer


CACHED = {"temperature": 0}
BYPASSES = [
    ("deterministic", "/api/chat", {"options": CACHED}, [], {}, ""),
    ("deterministic", "/api/chat", {}, [], {}, "sampling"),
    ("deterministic", "/api/chat", {}, [], {"temperature": 0}, ""),
    ("deterministic", "/api/chat", {"temperature": 0}, [], {}, "sampling"),
    ("all", "/api/chat", {}, [], {}, ""),
    ("off", "/api/chat", {"options": CACHED}, [], {}, "off"),
    ("deterministic", "/api/embed", {"input": "a"}, [], {}, ""),
    ("deterministic", "/api/embeddings", {"prompt": "a"}, [], {}, ""),
    ("deterministic", "/v1/embeddings", {"input": "a"}, [], {}, ""),
    ("deterministic", "/v1/chat/completions", {"temperature": 0}, [], {}, ""),
    ("deterministic", "/v1/chat/completions", {"seed": 3}, [], {}, ""),
    # openai.go puts 1.0 in, whatever the Modelfile says; anthropic.go puts nothing in and knows no seed.
    ("deterministic", "/v1/chat/completions", {}, [], {"temperature": 0}, "sampling"),
    ("deterministic", "/v1/responses", {"seed": 3}, [], {}, "sampling"),
    ("deterministic", "/v1/messages", {}, [], {"temperature": 0}, ""),
    ("deterministic", "/v1/messages", {"seed": 3}, [], {}, "sampling"),
    ("all", "/api/chat", {"tools": [{}]}, [], {}, "tools"),
    ("all", "/api/chat", {"tools": []}, [], {}, ""),
    ("all", "/api/chat", {}, [(b"Cache-Control", b"max-age=0, No-Store")], {}, "header"),
    ("all", "/api/chat", {}, [(b"cache-control", b"no-cache")], {}, "header"),
    ("all", "/api/chat", {}, [(b"Pragma", b"no-cache")], {}, "header"),
    ("all", "/api/chat", {}, [(b"Cache-Control", b"max-age=0")], {}, ""),
    ("all", "/api/chat", {"prompt": "x" * MAX_BODY_BYTES}, [], {}, "size"),
]


@pytest.mark.parametrize(("mode", "path", "body", "fields", "parameters", "reason"), BYPASSES)
def test_why_a_request_is_not_answered_from_the_cache(
    mode: Mode, path: str, body: dict[str, Any], fields: list[Field], parameters: dict[str, Any], reason: str
) -> None:
    raw = json.dumps(body).encode()
    obj, form = read_object(raw), canonical(raw)
    assert obj is not None
    assert form is not None
    assert bypass_reason(mode, classify("POST", path), obj, fields, form, parameters) == reason


def test_options_that_are_no_object_count_as_none() -> None:
    obj = read_object(b'{"options":[]}')
    assert obj is not None
    assert sampling_options(classify("POST", "/api/chat"), obj) == {}


# --- keys

PARTS = st.tuples(
    *[st.text(max_size=3)] * 2, st.text(min_size=1, max_size=3), st.text(max_size=3), st.binary(max_size=3)
)


@given(PARTS, PARTS)
def test_other_parts_always_make_another_key(
    one: tuple[str, str, str, str, bytes], other: tuple[str, str, str, str, bytes]
) -> None:
    keys = Keys(b"secret")
    assert (keys.of(*one) == keys.of(*other)) is (one == other)


def test_parts_cannot_be_moved_across_their_borders() -> None:
    keys = Keys(b"secret")
    found = {
        keys.of("ab", "c", "d", "e", b"f"),
        keys.of("a", "bc", "d", "e", b"f"),
        keys.of("a", "b", "cd", "e", b"f"),
        keys.of("a", "b", "c", "de", b"f"),
        keys.of("a", "b", "c", "d", b"ef"),
    }
    assert len(found) == 5


def test_a_key_tells_nothing_without_the_secret() -> None:
    assert Keys(b"one").of("a", "b", "c", "d", b"e") != Keys(b"other").of("a", "b", "c", "d", b"e")
    assert "one" not in repr(Keys(b"one"))


def test_a_model_without_a_digest_has_no_key() -> None:
    with pytest.raises(ValueError, match="digest"):
        Keys(b"secret").of("a", "b", "", "d", b"e")
