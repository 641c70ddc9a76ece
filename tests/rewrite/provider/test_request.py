"""What a native request becomes for a provider, and what has no words there."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.rewrite.provider.request import chat_request, embed_request
from proxy.wire.gojson import read_object

USER = {"role": "user", "content": "hi"}
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(20)).decode()
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": SCHEMA}}


def said(*, streams: bool = False, **body: Any) -> Any:
    """What a chat becomes, or ``None``."""
    body = {"model": "ours", "messages": [USER], **body}
    obj = read_object(json.dumps(body).encode())
    assert obj is not None
    request = chat_request(obj, "theirs", obj.given("messages"), path="/api/chat", streams=streams)
    return None if request is None else json.loads(request)


def messages(*given: dict[str, Any]) -> Any:
    request = said(messages=list(given))
    return None if request is None else request["messages"]


# --- members


def test_a_plain_chat_says_the_same_under_the_providers_name_of_the_model() -> None:
    assert said() == {"model": "theirs", "messages": [USER]}
    assert said(streams=True) == {
        "model": "theirs",
        "messages": [USER],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        ({"temperature": 0, "top_p": 0.5, "seed": 7}, {"temperature": 0, "top_p": 0.5, "seed": 7}),
        ({"stop": ["a"], "num_predict": 9.7}, {"stop": ["a"], "max_tokens": 9}),
        ({"presence_penalty": 1, "frequency_penalty": -1}, {"presence_penalty": 1, "frequency_penalty": -1}),
        # What stands for "no limit", "at random" and "nothing" there is what an absent one is here.
        ({"num_predict": -1}, {}),
        ({"num_predict": 0}, {}),
        ({"seed": -1}, {}),
        ({"stop": []}, {}),
        ({"temperature": None, "top_k": None}, {}),
        # They decide how a runner is started, or nothing at all.
        ({"num_ctx": 9, "num_batch": 1, "num_gpu": 1, "main_gpu": 0, "num_thread": 2, "use_mmap": True}, {}),
        ({"num_keep": 4, "no_such_option": 1}, {}),
    ],
)
def test_options_that_have_a_counterpart_are_said_and_the_harmless_are_not(
    options: dict[str, Any], fields: dict[str, Any]
) -> None:
    assert said(options=options) == {"model": "theirs", "messages": [USER], **fields}


@pytest.mark.parametrize("name", ["top_k", "min_p", "typical_p", "repeat_last_n", "repeat_penalty"])
def test_an_option_that_would_change_the_answer_and_cannot_be_said_is_not_left_out(name: str) -> None:
    assert said(options={name: 1}) is None


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"format": "json"}, {"response_format": {"type": "json_object"}}),
        (
            {"format": SCHEMA},
            {"response_format": {"type": "json_schema", "json_schema": {"name": "response", "schema": SCHEMA}}},
        ),
        ({"format": ""}, {}),
        ({"format": None}, {}),
        ({"tools": [TOOL]}, {"tools": [TOOL]}),
        ({"tools": []}, {}),
        ({"think": "low"}, {"reasoning_effort": "low"}),
        ({"think": True}, {}),
        ({"think": False}, {}),
        ({"logprobs": True, "top_logprobs": 3}, {"logprobs": True, "top_logprobs": 3}),
        ({"logprobs": False, "top_logprobs": 3}, {}),
        ({"keep_alive": "5m", "truncate": False, "shift": True, "unknown": 1}, {}),
    ],
)
def test_other_members_are_said_in_openais_words(body: dict[str, Any], fields: dict[str, Any]) -> None:
    assert said(**body) == {"model": "theirs", "messages": [USER], **fields}


@pytest.mark.parametrize(
    "body",
    [
        {"format": "yaml"},
        {"format": [1]},
        {"think": "max"},
        {"_debug_render_only": True},
        {"options": {"temperature": "hot"}},
        {"keep_alive": "soon"},
        {"messages": "hi"},
        {"Messages": []},
    ],
)
def test_what_cannot_be_said_or_would_be_refused_is_not_sent(body: dict[str, Any]) -> None:
    if not isinstance(body.get("messages"), str):
        assert said(**body) is None
        return
    obj = read_object(json.dumps({"model": "ours", **body}).encode())
    assert obj is not None
    assert chat_request(obj, "theirs", [], path="/api/chat", streams=False) is None


def test_a_schema_and_tools_keep_their_order_and_spelling() -> None:
    text = '{"b":1.50,"a":{"z":null,"y":[]}}'
    body = f'{{"model":"m","messages":[],"format":{text},"tools":[{{"type":"function","function":{text}}}]}}'
    obj = read_object(body.encode())
    assert obj is not None
    request = chat_request(obj, "t", [], path="/api/chat", streams=False)
    assert request is not None
    assert request.count(text.encode()) == 2


# --- messages


def test_images_become_parts_with_their_kind() -> None:
    kinds = {
        "png": b"\x89PNG\r\n\x1a\n",
        "jpeg": b"\xff\xd8\xff\xe0",
        "gif": b"GIF89a",
        "webp": b"RIFF\x10\x00\x00\x00WEBP",
    }
    packed = {kind: base64.b64encode(mark + bytes(12)).decode() for kind, mark in kinds.items()}
    (message,) = messages({"role": "user", "content": "see", "images": list(packed.values())})
    assert message["content"][0] == {"type": "text", "text": "see"}
    urls = [part["image_url"]["url"] for part in message["content"][1:]]
    assert urls == [f"data:image/{kind};base64,{text}" for kind, text in packed.items()]


def test_an_image_alone_has_no_empty_text_beside_it() -> None:
    (message,) = messages({"role": "user", "content": "", "images": [PNG[:4] + "\n" + PNG[4:]]})
    assert message["content"] == [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}]


@pytest.mark.parametrize("image", ["", "!", base64.b64encode(b"RIFF....WAVE....").decode(), PNG[:-1], None])
def test_what_is_no_image_is_not_called_one(image: Any) -> None:
    assert messages({"role": "user", "content": "", "images": [image]}) is None


def call(name: str = "f", arguments: Any = None, **more: Any) -> dict[str, Any]:
    return {"function": {"name": name, "arguments": arguments or {}}, **more}


def test_calls_of_tools_and_their_results_find_each_other() -> None:
    told = messages(
        {"role": "assistant", "content": "", "thinking": "hm", "tool_calls": [call("a", {"ü": 1}), call("b")]},
        {"role": "tool", "content": "of b", "tool_name": "b"},
        {"role": "tool", "content": "of a"},
        {"role": "assistant", "content": "so", "tool_calls": [call("a", id="call_x")]},
        {"role": "tool", "content": "again", "tool_call_id": "call_x"},
    )
    first, of_b, of_a, second, again = told
    assert first == {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "a", "arguments": '{"ü":1}'}},
            {"id": "call_2", "type": "function", "function": {"name": "b", "arguments": "{}"}},
        ],
    }
    assert of_b == {"role": "tool", "tool_call_id": "call_2", "content": "of b"}
    assert of_a["tool_call_id"] == "call_1"
    assert (second["content"], second["tool_calls"][0]["id"], again["tool_call_id"]) == ("so", "call_x", "call_x")


@pytest.mark.parametrize(
    "given",
    [
        [{"role": "tool", "content": "of nothing"}],
        [{"role": "assistant", "tool_calls": [call("a")]}, {"role": "tool", "content": "x", "tool_name": "b"}],
        [{"role": "assistant", "tool_calls": [call("a", id="1")]}, {"role": "tool", "tool_call_id": "2"}],
        [{"role": "assistant", "tool_calls": [call("a")]}, {"role": "tool"}, {"role": "tool"}],
        [{"role": "assistant", "tool_calls": [{}]}],
        [{"role": "assistant", "tool_calls": [call(arguments="text")]}],
        [{"role": "assistant", "tool_calls": [call(id=1)]}],
        [{"role": "assistant", "content": "", "images": [PNG]}],
        [{"role": "stranger", "content": "hi"}],
        [{"content": "hi"}],
    ],
)
def test_a_conversation_that_cannot_be_said_whole_is_not_said(given: list[dict[str, Any]]) -> None:
    assert messages(*given) is None


@pytest.mark.parametrize("name", ["temperature", "seed", "num_predict"])
def test_a_number_beyond_all_floats_is_not_said(name: str) -> None:
    obj = read_object(b'{"model":"m","messages":[],"options":{"%b":1e999}}' % name.encode())
    assert obj is not None
    assert chat_request(obj, "m", [], path="/api/chat", streams=False) is None


# --- embeddings


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"input": "a"}, {"input": "a"}),
        ({"input": ["a", "ü"], "dimensions": 3}, {"input": ["a", "ü"], "dimensions": 3}),
        ({"input": "a", "truncate": True, "keep_alive": 0, "options": {"num_ctx": 9}}, {"input": "a"}),
        ({"input": ""}, None),
        ({"input": []}, None),
        ({"input": ["a", ""]}, None),
        ({"input": [1]}, None),
        ({}, None),
        ({"input": "a", "dimensions": "3"}, None),
    ],
)
def test_texts_are_embedded_in_openais_words(body: dict[str, Any], fields: dict[str, Any] | None) -> None:
    obj = read_object(json.dumps({"model": "ours", **body}).encode())
    assert obj is not None
    request = embed_request(obj, "theirs")
    if fields is None:
        assert request is None
    else:
        assert request is not None
        assert json.loads(request) == {"model": "theirs", "encoding_format": "float", **fields}


# --- for every input

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
_message = st.fixed_dictionaries(
    {},
    optional={
        "role": st.sampled_from(["system", "user", "assistant", "tool"]) | _json,
        "content": st.text(max_size=5) | _json,
        "images": st.lists(st.just(PNG) | st.text(max_size=4), max_size=2) | _json,
        "tool_calls": st.lists(st.just(call("f")) | _json, max_size=2) | _json,
        "tool_name": st.just("f") | _json,
        "tool_call_id": st.text(max_size=3) | _json,
    },
)
_body = st.fixed_dictionaries(
    {"model": st.just("m"), "messages": st.lists(_message, max_size=4) | _json},
    optional={name: _json for name in ("options", "format", "think", "tools", "logprobs", "top_logprobs", "truncate")},
)


@given(_body)
def test_any_body_becomes_json_that_means_something_or_nothing_at_all(body: dict[str, Any]) -> None:
    obj = read_object(json.dumps(body).encode())
    assert obj is not None
    given = obj.given("messages")
    request = chat_request(obj, "t", given if isinstance(given, list) else [], path="/api/chat", streams=True)
    if request is None:
        return
    told = json.loads(request)
    assert told["model"] == "t"
    ids = [call["id"] for message in told["messages"] for call in message.get("tool_calls", ())]
    for message in told["messages"]:
        assert message["role"] in ("system", "user", "assistant", "tool")
        assert message["role"] != "tool" or message["tool_call_id"] in ids
        for each in message.get("tool_calls", ()):
            assert isinstance(json.loads(each["function"]["arguments"]), dict)
