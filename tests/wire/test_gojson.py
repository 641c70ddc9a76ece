from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire import gojson
from proxy.wire.gojson import MAX_DEPTH, MISSING, UNREAD, go_quote, read_nested, read_object, splice

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
_OBJECT = st.dictionaries(st.text(), _JSON, max_size=6)


def read(text: str | bytes) -> gojson.JsonObject:
    obj = read_object(text.encode() if isinstance(text, str) else text)
    assert obj is not None
    return obj


def test_members_carry_their_places_in_the_text() -> None:
    obj = read(' {"a" : 1 ,\n"b":[ 1, 2 ]} rest')
    assert [(m.name, m.value, obj.text[m.start : m.end], obj.text[m.name_start]) for m in obj.members] == [
        ("a", 1, "1", '"'),
        ("b", [1, 2], "[ 1, 2 ]", '"'),
    ]
    assert obj.text[obj.start : obj.end] == '{"a" : 1 ,\n"b":[ 1, 2 ]}'


@pytest.mark.parametrize(
    "body",
    [
        *["", " ", "null", "[]", "1", '"a"', "{", '{"a"}', '{"a":}', '{"a":1,}', "{,}", '{"a" 1}', "{a:1}", '{"a":01}'],
        *['{"a":1.}', '{"a":+1}', '{"a":.5}', '{"a":NaN}', '{"a":[-Infinity]}', '{"a":tru}', '{"a":"\t"}', '{"\n":1}'],
        *['{"a":"\\x"}', '{"a":"\\u12g4"}', '{"a":1 "b":2}', '\ufeff{"a":1}', "{'a':1}", '{"a":1;}', '{"a":[1,]}'],
    ],
)
def test_what_go_does_not_read_as_an_object_is_none(body: str) -> None:
    assert read_object(body.encode()) is None


def test_null_counts_as_not_given_but_not_as_missing() -> None:
    obj = read('{"a":null}')
    assert (obj.get("a"), obj.get("b")) == (None, MISSING)
    assert (obj.given("a"), obj.given("b")) == (None, None)
    assert (obj.raw("a"), obj.raw("b")) == ("null", "")


def test_the_last_of_several_members_counts() -> None:
    obj = read('{"a":1,"b":2,"a":3}')
    assert obj.get("a") == 3
    assert obj.odd


@pytest.mark.parametrize(
    ("body", "odd"),
    [
        ('{"stream":true}', False),
        ('{"Stream":true}', True),
        ('{"\\u0073tream":true}', False),
        ('{"\u017ftream":true}', True),  # long s folds to s
        ('{"\u212aeep_alive":0}', True),  # the Kelvin sign folds to k
        ('{"keep_alive":0,"stream":true,"mine":1}', False),
        ('{"mine":1,"MINE":2}', True),
    ],
)
def test_a_name_that_matches_only_by_case_is_odd(body: str, odd: bool) -> None:
    assert read(body).odd_for(frozenset({"stream", "keep_alive"})) is odd


def test_bytes_that_are_no_utf8_survive_splicing_and_read_as_replacement_characters() -> None:
    obj = read(b'{"a\xff":"x\xed\xa0\x80\\ud800y","b":1}')
    assert obj.members[0].name == "a\ufffd"
    assert obj.members[0].value == "x\ufffd\ufffd\ufffd\ufffdy"
    assert splice(obj, {"b": "2"}) == b'{"a\xff":"x\xed\xa0\x80\\ud800y","b":2}'


def test_lone_surrogates_deep_inside_are_replaced_too() -> None:
    assert read('{"a":[{"\\udc00":["\\ud83d\\ude00","\\ud83d"]}]}').get("a") == [{"\ufffd": ["\U0001f600", "\ufffd"]}]


@pytest.mark.parametrize(
    "value",
    [
        "9" * 5000,
        "[" * 2000 + "]" * 2000,
        '{"x":[' * 600 + '"\\ud800"' + "]}" * 600,
        '[{"a":{},"b":[],"c":"\\n","d":-1.5e+3}, null ,true,false,' + "7" * 5000 + "]",
    ],
)
def test_what_go_reads_and_python_may_not_keeps_its_place(value: str) -> None:
    obj = read(f'{{"a":1,"deep":{value} ,"b":2}}')
    assert obj.get("deep") is UNREAD or isinstance(obj.get("deep"), list | dict)
    assert obj.raw("deep") == value
    assert obj.get("b") == 2


@pytest.mark.parametrize(
    "fault", ['{"a" 1}', "{1:2}", "[1,]", '{"a":1,}', "[1}", "tru", '"\x01"', "01", "[", "{", '{"a":']
)
def test_faults_below_the_depth_python_reads_are_found_as_well(fault: str) -> None:
    assert read_object(f'{{"deep":{"[" * 2000}{fault}{"]" * 2000}}}'.encode()) is None


def test_a_number_of_thousands_of_digits_is_unread() -> None:
    assert read(f'{{"a":{"9" * 5000}}}').get("a") is UNREAD


def test_depth_ends_where_go_ends_it() -> None:
    inner = MAX_DEPTH - 1
    assert read(f'{{"a":{"[" * inner}{"]" * inner}}}').raw("a") == "[" * inner + "]" * inner
    assert read(f'{{"a":[{",".join(["[[]]"] * inner)}]}}').get("a") == [[[]]] * inner
    assert read_object(f'{{"a":{"[" * (inner + 1)}{"]" * (inner + 1)}}}'.encode()) is None


def test_splice_keeps_places_and_everything_else() -> None:
    obj = read('{ "a": 1 , "b" :2,\n "c":3 } junk')
    assert splice(obj, {}) == b'{ "a": 1 , "b" :2,\n "c":3 }'
    assert splice(obj, {"b": "[]", "d": '"x"'}) == b'{ "a": 1 , "b" :[],\n "c":3,"d":"x" }'
    assert splice(obj, {}, ["a"]) == b'{ "b" :2,\n "c":3 }'
    assert splice(obj, {}, ["a", "b"]) == b'{ "c":3 }'
    assert splice(obj, {}, ["b", "c"]) == b'{ "a": 1 }'
    assert splice(obj, {"z<": "0"}, ["a", "b", "c"]) == b'{ "z\\u003c":0 }'
    assert splice(read("{ }"), {"a": "1", "b": "2"}) == b'{"a":1,"b":2 }'


def test_a_nested_object_is_spliced_inside_its_parent() -> None:
    obj = read('{"options": {"num_ctx":1, "seed": 2} ,"x":1}')
    options = read_nested(obj, "options")
    assert options is not None
    text = gojson.splice_text(options, {"num_ctx": "4096"}, ["seed"])
    assert splice(obj, {"options": text}) == b'{"options": {"num_ctx":4096} ,"x":1}'
    assert read_nested(obj, "x") is None
    assert read_nested(obj, "nope") is None


@given(_OBJECT, st.dictionaries(st.text(), _JSON, max_size=3), st.lists(st.text(), max_size=3), st.booleans())
def test_splicing_equals_changing_the_dictionary(
    members: dict[str, object], put: dict[str, object], remove: list[str], ascii_only: bool
) -> None:
    remove = [*remove, *list(members)[::2]]
    text = json.dumps(members, ensure_ascii=ascii_only, indent=1)
    spliced = splice(read(text), {name: json.dumps(value) for name, value in put.items()}, remove)
    kept = {name: value for name, value in members.items() if name not in remove}
    assert json.loads(spliced) == {**kept, **put}


@given(_OBJECT)
def test_values_read_as_json_reads_them(members: dict[str, object]) -> None:
    obj = read(json.dumps(members))
    assert {name: obj.get(name) for name in obj} == members


@given(st.binary())
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    read_object(body)
    obj = read_object(b'{"a":"' + body + b'"}')
    assert obj is None or obj.start == 0


@given(st.text())
def test_a_quoted_string_reads_back(text: str) -> None:
    quoted = go_quote(text)
    assert gojson.decode_string(quoted) == text
    assert not set(quoted) & set("<>&\u2028\u2029\n")


def test_strings_are_written_as_go_writes_them() -> None:
    # Recorded from encoding/json of Go 1.26: json.Marshal of this string.
    assert go_quote('a"\\/\b\f\n\r\t\x00\x1f\x7f<>&\u2028\u2029é\U0001f600') == (
        '"a\\"\\\\/\\b\\f\\n\\r\\t\\u0000\\u001f\x7f\\u003c\\u003e\\u0026\\u2028\\u2029é\U0001f600"'
    )
    assert go_quote("\ud800") == '"\\ufffd"'


@pytest.mark.parametrize("raw", ["", "a", '"a', '"a"b', "1", '"\\q"'])
def test_only_the_text_of_one_string_decodes(raw: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        gojson.decode_string(raw)


def test_a_reader_that_prints_an_object_sees_its_counts() -> None:
    assert repr(read('{"a":1}')) == "<JsonObject 1 members, 7 characters>"
