from __future__ import annotations

import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.rewrite.context import Origin, beyond_vocabulary, classify, encode

_MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant"]), "content": st.text()},
    optional={"thinking": st.text(), "images": st.lists(st.text(alphabet="aGk="), max_size=2)},
)
_TEXT = '[{"role":"user","content":"hi"},{"role":"assistant","content":"ho"}]'


@given(st.lists(_MESSAGE, min_size=1, max_size=5), st.booleans())
def test_a_conversation_comes_back_as_it_was(messages: list[dict[str, object]], ascii_only: bool) -> None:
    text = json.dumps(messages, ensure_ascii=ascii_only).encode("utf-8", "replace").decode()
    numbers = json.loads(encode(text))
    assert classify(numbers) == (Origin.OWN, text)
    assert beyond_vocabulary(numbers, 256) is None


def test_bytes_that_are_no_utf8_come_back_as_well() -> None:
    text = '[{"role":"user","content":"\udcff"}]'
    assert classify(json.loads(encode(text))).messages == text


@given(st.lists(st.integers(0, 300_000)))
def test_a_list_of_tokens_is_foreign(numbers: list[int]) -> None:
    assert classify(numbers).origin is Origin.FOREIGN


def test_the_array_looks_like_gos() -> None:
    assert encode(_TEXT).startswith("[0,112,108,116,255,1,1,0,0,0,68,")
    assert " " not in encode(_TEXT)


@given(st.data())
def test_one_changed_number_is_noticed(data: st.DataObject) -> None:
    numbers = json.loads(encode(_TEXT))
    at = data.draw(st.integers(0, len(numbers) - 1))
    numbers[at] = data.draw(st.integers(-1, 256).filter(lambda number: number != numbers[at]))
    assert classify(numbers).origin is Origin.BROKEN


@given(st.data())
def test_an_array_cut_at_one_end_is_noticed(data: st.DataObject) -> None:
    numbers = json.loads(encode(_TEXT))
    cut = data.draw(st.integers(1, len(numbers) - 6))
    assert classify(numbers[cut:]).origin is Origin.BROKEN
    assert classify(numbers[:-cut]).origin is Origin.BROKEN


@pytest.mark.parametrize("odd", [True, None, 1.0, "1", []])
def test_an_element_that_is_no_integer_breaks_it(odd: object) -> None:
    numbers = json.loads(encode(_TEXT))
    assert classify([*numbers[:20], odd, *numbers[21:]]).origin is Origin.BROKEN


@pytest.mark.parametrize(
    "messages",
    [
        *["[]", "{}", "", '"x"', "[1]", '[{"role":"user"}]', '[{"role":"tool","content":""}]'],
        *['[{"role":"user","content":"","Role":"system"}]', '[{"role":"user","content":"","tool_calls":[]}]'],
        *['[{"role":"user","content":"","images":"x"}]', '[{"role":"user","content":"","images":[1]}]'],
        *['[{"role":"user","content":""}],"tools":[]', '[{"role":"user","content":""}]}'],
        '[{"role":"user","content":1}]',
    ],
)
def test_what_the_proxy_does_not_write_is_not_taken(messages: str) -> None:
    assert classify(json.loads(encode(messages))).origin is Origin.BROKEN


def _container(packed: bytes, length: int, version: int = 1) -> list[int]:
    head = b"\x00plt\xff\x01" + bytes([version]) + length.to_bytes(4, "big") + zlib.crc32(packed).to_bytes(4, "big")
    return list(head + packed + b"\xfe\x00lt")


def test_a_forged_container_is_taken_or_refused_but_never_trusted() -> None:
    packed = zlib.compress(_TEXT.encode())
    assert classify(_container(packed, len(_TEXT))).origin is Origin.OWN
    for broken in (
        _container(packed, len(_TEXT) + 1),
        _container(packed, len(_TEXT) - 1),
        _container(packed, len(_TEXT), version=2),
        _container(packed + b"x", len(_TEXT)),
        _container(packed[:-4], len(_TEXT)),
        _container(b"no zlib", 3),
        _container(packed, 1 << 31),
    ):
        assert classify(broken).origin is Origin.BROKEN


def test_a_bomb_is_not_unpacked() -> None:
    packed = zlib.compress(b"0" * (200 << 20), 9)
    assert classify(_container(packed, 200 << 20)).origin is Origin.BROKEN
    assert classify(_container(packed, 100)).origin is Origin.BROKEN


@pytest.mark.parametrize(
    ("numbers", "vocab_size", "first"),
    [
        ([], 10, None),
        ([0, 9], 10, None),
        ([0, 10, 11], 10, 10),
        ([-1], 10, -1),
        ([None, 10], 10, 10),
        (["x", 1.5, True, None], 1, None),
        ([262_143], None, None),
        ([1 << 20], None, 1 << 20),
        ([-1], None, -1),
    ],
)
def test_a_number_that_is_no_token_is_told(numbers: list[object], vocab_size: int | None, first: int | None) -> None:
    assert beyond_vocabulary(numbers, vocab_size) == first
