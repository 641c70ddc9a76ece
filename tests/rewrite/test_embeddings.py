"""``/v1/embeddings`` said as ``/api/embed`` and back is what Ollama itself makes of it."""

from __future__ import annotations

import base64
import json
import math
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.rewrite.embeddings import EmbeddingAsked, as_embed, embedding_error, embedding_list
from proxy.wire.gojson import read_object

RECORDED = json.loads((Path(__file__).parent.parent / "data" / "exchanges.json").read_text(encoding="utf-8"))


def asked(**body: Any) -> EmbeddingAsked | None:
    return as_embed(read_object(json.dumps(body).encode()))


def recorded(name: str) -> bytes:
    (case,) = [case for case in RECORDED if case["name"] == name]
    return "".join(text for _, text in case["reply"]["chunks"]).encode()


@pytest.mark.parametrize(
    ("body", "native"),
    [
        (b'{"model":"m","input":"a"}', b'{"model":"m","input":"a"}'),
        (b'{ "input" : [ "\\u0061" ] , "model":"m", "user":"x"}', b'{"model":"m","input":"\\u0061"}'),
        (b'{"model":"m","input":"a","dimensions":3}', b'{"model":"m","input":"a","dimensions":3}'),
        (b'{"model":"m","input":"a","dimensions":0}', b'{"model":"m","input":"a"}'),
        (b'{"model":"m","input":"a","encoding_format":"Float"}', b'{"model":"m","input":"a"}'),
        (b'{"model":"m","input":"a","encoding_format":"BASE64"}', b'{"model":"m","input":"a"}'),
        (b'{"model":"m","input":"a","encoding_format":null,"dimensions":null}', b'{"model":"m","input":"a"}'),
    ],
)
def test_one_text_is_asked_for_natively(body: bytes, native: bytes) -> None:
    found = as_embed(read_object(body))
    assert found is not None
    assert (found.body, found.model, found.is_packed) == (native, "m", b"BASE64" in body)


@pytest.mark.parametrize(
    "body",
    [
        {"model": "m"},
        {"model": "m", "input": ""},
        {"model": "m", "input": [""]},
        {"model": "m", "input": []},
        {"model": "m", "input": ["a", "b"]},
        {"model": "m", "input": [1, 2]},
        {"model": "m", "input": [["a"]]},
        {"model": "", "input": "a"},
        {"model": 1, "input": "a"},
        {"input": "a"},
        {"model": "m", "input": "a", "dimensions": 1.5},
        {"model": "m", "input": "a", "dimensions": "3"},
        {"model": "m", "input": "a", "dimensions": True},
        {"model": "m", "input": "a", "encoding_format": "float16"},
        {"model": "m", "input": "a", "encoding_format": 1},
        {"model": "m", "Input": "a", "input": "b"},
        {"model": "m", "input": "a", "Dimensions": 3},
    ],
)
def test_what_is_not_one_text_or_has_two_readings_is_relayed(body: dict[str, Any]) -> None:
    assert asked(**body) is None


def test_a_body_that_is_no_object_is_relayed() -> None:
    assert as_embed(None) is None


def test_the_answer_has_ollamas_own_members_order_and_numbers() -> None:
    """The recorded reply for two texts, cut down to the first, from the native one for that text."""
    v1 = recorded("v1 embeddings").decode()
    first = v1[v1.index('"embedding":[') + 12 : v1.index(',"index":0')]
    native = f'{{"model":"tiny","embeddings":[{first}],"total_duration":2,"load_duration":1,"prompt_eval_count":2}}'
    want = asked(model="tiny", input="a")
    assert want is not None
    told = embedding_list(want, native.encode())
    assert told is not None
    rest = v1.index(',{"object":"embedding"')
    assert told.decode()[: rest + 1] == v1[:rest] + "]"
    assert told.decode()[rest:] == '],"model":"tiny","usage":{"prompt_tokens":2,"total_tokens":2}}\n'


def test_a_count_that_nobody_told_is_0() -> None:
    want = EmbeddingAsked(b"", "a<b", False)
    told = embedding_list(want, b'{"embeddings":[[1e-07, 2]]}')
    assert told == (
        b'{"object":"list","data":[{"object":"embedding","embedding":[1e-07, 2],"index":0}],'
        b'"model":"a\\u003cb","usage":{"prompt_tokens":0,"total_tokens":0}}\n'
    )


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=8))
def test_packed_numbers_are_the_same_floats(vector: list[float]) -> None:
    # As Go writes a float32: the fewest digits that give it back.
    texts = [next(text for text in (f"{x:.{n}g}" for n in range(1, 18)) if _single(float(text)) == x) for x in vector]
    told = embedding_list(EmbeddingAsked(b"", "m", True), f'{{"embeddings":[[{",".join(texts)}]]}}'.encode())
    assert told is not None
    packed = json.loads(told)["data"][0]["embedding"]
    assert list(struct.unpack(f"<{len(vector)}f", base64.b64decode(packed))) == vector


def _single(value: float) -> float:
    try:
        return struct.unpack("<f", struct.pack("<f", value))[0]
    except OverflowError:
        return math.inf


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"[]",
        b"{}",
        b'{"embeddings":[]}',
        b'{"embeddings":[[1],[2]]}',
        b'{"embeddings":[["1"]]}',
        b'{"embeddings":[1]}',
    ],
)
def test_what_has_not_one_vector_is_no_answer(reply: bytes) -> None:
    assert embedding_list(EmbeddingAsked(b"", "m", False), reply) is None


def test_a_number_that_is_no_32_bit_float_cannot_be_packed() -> None:
    assert embedding_list(EmbeddingAsked(b"", "m", True), b'{"embeddings":[[1e300]]}') is None


def test_an_error_takes_the_shape_of_the_route() -> None:
    assert embedding_error(404, b'{"error":"model \\"ghost\\" not found"}') == (
        b'{"error":{"message":"model \\"ghost\\" not found","type":"not_found_error","param":null,"code":null}}\n'
    )
    assert json.loads(embedding_error(502, b"<html>"))["error"]["message"] == "<html>"
    assert json.loads(embedding_error(500, b"{}"))["error"]["type"] == "api_error"
