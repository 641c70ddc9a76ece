"""Messages with their oddities, as Ollama's own middleware makes them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.rewrite.v1.messages import Refused, native_messages

CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"b": 1, "a": 2}'}}
NATIVE_CALL = {"id": "c1", "function": {"name": "f", "arguments": {"b": 1, "a": 2}}}


def native(*messages: dict[str, Any]) -> Any:
    try:
        return json.loads(native_messages(messages))
    except Refused:
        return None


def test_each_part_is_a_message_of_its_own() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert native({"role": "user", "content": parts, "reasoning": "dropped", "tool_call_id": "dropped"}) == [
        {"role": "user", "content": "a"},
        {"role": "user", "content": "b"},
    ]


def test_calls_beside_parts_go_to_the_last_message_whosever_it_is() -> None:
    before = {"role": "user", "content": "hi"}
    assert native(before, {"role": "assistant", "content": [], "tool_calls": [CALL], "reasoning": "r"}) == [
        {**before, "thinking": "r", "tool_calls": [NATIVE_CALL]}
    ]
    assert native({"role": "assistant", "content": [], "tool_calls": [CALL]}) == []


def test_content_may_be_missing_beside_calls_only() -> None:
    assert native({"role": "assistant", "tool_calls": [CALL], "reasoning": "r"}) == [
        {"role": "assistant", "content": "", "thinking": "r", "tool_calls": [NATIVE_CALL]}
    ]
    assert native({"role": "assistant", "content": None, "tool_calls": []}) == [{"role": "assistant", "content": ""}]
    assert native({"role": "assistant", "content": None}) is None


def test_a_result_gets_the_name_of_the_last_call_with_its_id() -> None:
    other = {**CALL, "function": {"name": "g", "arguments": "{}"}}
    asked = {"role": "assistant", "content": "", "tool_calls": [CALL]}
    again = {"role": "assistant", "content": "", "tool_calls": [other]}
    result = {"role": "Tool", "content": "12", "tool_call_id": "c1"}
    assert native(asked, again, result)[-1] == {
        "role": "Tool",
        "content": "12",
        "tool_name": "g",
        "tool_call_id": "c1",
    }
    assert native({**result, "name": "h"})[0]["tool_name"] == "h"
    assert "tool_name" not in native(result)[0]
    assert "tool_name" not in native({"role": "user", "content": "x", "name": "bob"})[0]


@pytest.mark.parametrize("arguments", ["", "null", "[]", "{", "{}x", '{"a":1,"a":2}', '{"a":1e999}', "5"])
def test_arguments_that_are_no_certain_object_are_not_translated(arguments: str) -> None:
    call = {**CALL, "function": {"name": "f", "arguments": arguments}}
    assert native({"role": "assistant", "content": "", "tool_calls": [call]}) is None


def test_arguments_keep_their_order_and_their_numbers() -> None:
    call = {"id": "", "function": {"name": "f", "arguments": ' {"z": 1.50, "a": 12345678901234567890} '}}
    text = native_messages([{"role": "assistant", "content": "", "tool_calls": [call]}])
    assert '"arguments":{"z": 1.50, "a": 12345678901234567890}' in text
    assert '"id"' not in text


@pytest.mark.parametrize(
    "part",
    [
        "text",
        {},
        {"type": "text"},
        {"type": "text", "text": 5},
        {"type": "image_url"},
        {"type": "image_url", "image_url": {"url": "data:image/gif;base64,AAAA"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAA"}},
        {"type": "input_audio", "input_audio": {"data": "!"}},
        {"type": "input_audio", "input_audio": "AAAA"},
    ],
)
def test_a_part_that_ollama_refuses_is_not_translated(part: object) -> None:
    assert native({"role": "user", "content": [part]}) is None


def test_audio_goes_the_way_of_pictures() -> None:
    part = {"type": "input_audio", "input_audio": {"data": "AAAA"}}
    assert native({"role": "user", "content": [part]}) == [{"role": "user", "content": "", "images": ["AAAA"]}]
