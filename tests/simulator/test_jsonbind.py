"""JSON into Go structs: names, defaults, and the texts of type errors."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.simulator.api.requests import CHAT, EMBED, GENERATE
from proxy.simulator.api.v1 import CHAT_COMPLETION, MESSAGES
from proxy.simulator.golang.jsonbind import Struct, decode_base64, unmarshal_struct
from proxy.simulator.golang.jsonin import GoError


def read(into: Struct, body: str) -> dict[str, Any]:
    return unmarshal_struct(body.encode(), into)


@pytest.mark.parametrize(
    ("into", "body", "message"),
    [
        (GENERATE, "[1]", "json: cannot unmarshal array into Go value of type api.GenerateRequest"),
        (GENERATE, '"x"', "json: cannot unmarshal string into Go value of type api.GenerateRequest"),
        (
            GENERATE,
            '{"prompt":5}',
            "json: cannot unmarshal number into Go struct field GenerateRequest.prompt of type string",
        ),
        (
            GENERATE,
            '{"top_logprobs":1.5}',
            "json: cannot unmarshal number 1.5 into Go struct field GenerateRequest.top_logprobs of type int",
        ),
        (
            GENERATE,
            '{"context":[1,"a"]}',
            "json: cannot unmarshal string into Go struct field GenerateRequest.context of type int",
        ),
        (
            GENERATE,
            '{"options":[]}',
            "json: cannot unmarshal array into Go struct field GenerateRequest.options of type map[string]interface {}",
        ),
        (
            GENERATE,
            '{"width":3000000000}',
            "json: cannot unmarshal number 3000000000 into Go struct field GenerateRequest.width of type int32",
        ),
        (GENERATE, '{"images":["###"]}', "illegal base64 data at input byte 0"),
        (GENERATE, '{"keep_alive":"abc"}', 'time: invalid duration "abc"'),
        (GENERATE, '{"keep_alive":true}', "Unsupported type: 'bool'"),
        (GENERATE, '{"keep_alive":"5"}', 'time: missing unit in duration "5"'),
        (
            GENERATE,
            '{"think":"none"}',
            'invalid think value: "none" (must be "high", "medium", "low", "max", true, or false)',
        ),
        (
            CHAT,
            '{"messages":{}}',
            "json: cannot unmarshal object into Go struct field ChatRequest.messages of type []api.Message",
        ),
        (
            CHAT,
            '{"messages":[{"content":5}]}',
            "json: cannot unmarshal number into Go struct field ChatRequest.messages.content of type string",
        ),
        (
            CHAT,
            '{"tools":[{"function":{"name":5}}]}',
            "json: cannot unmarshal number into Go struct field ToolFunction.tools.function.name of type string",
        ),
        (
            CHAT,
            '{"tools":5}',
            "json: cannot unmarshal number into Go struct field ChatRequest.tools of type api.Tools",
        ),
        (
            CHAT_COMPLETION,
            '{"messages":[{"role":5}]}',
            "json: cannot unmarshal number into Go struct field Message.messages.role of type string",
        ),
        (
            MESSAGES,
            '{"messages":[1]}',
            "json: cannot unmarshal number into Go struct field MessagesRequest.messages of type "
            'struct { Role string "json:\\"role\\""; Content json.RawMessage "json:\\"content\\"" }',
        ),
        (
            EMBED,
            '{"dimensions":"x"}',
            "json: cannot unmarshal string into Go struct field EmbedRequest.dimensions of type int",
        ),
    ],
)
def test_type_errors_have_the_text_of_go(into: Struct, body: str, message: str) -> None:
    with pytest.raises(GoError) as caught:
        read(into, body)
    assert str(caught.value) == message


def test_the_first_type_error_wins_but_an_unmarshaler_error_wins_over_it() -> None:
    with pytest.raises(GoError, match=r"GenerateRequest\.prompt"):
        read(GENERATE, '{"prompt":5,"system":5}')
    with pytest.raises(GoError, match="invalid duration"):
        read(GENERATE, '{"prompt":5,"keep_alive":"abc"}')


def test_names_match_without_case_and_the_last_duplicate_wins() -> None:
    assert read(GENERATE, '{"MODEL":"a","Prompt":"x"}')["model"] == "a"
    assert read(GENERATE, '{"model":"a","model":"b"}')["model"] == "b"
    assert read(GENERATE, '{"model":"a","MODEL":"b"}')["model"] == "b"
    assert read(GENERATE, '{"\u212aeep_alive":1}')["keep_alive"] == 10**9


def test_duplicate_maps_are_merged() -> None:
    assert read(GENERATE, '{"options":{"a":1},"options":{"b":2}}')["options"] == {"a": 1.0, "b": 2.0}


def test_null_leaves_the_default_and_unknown_members_are_passed_over() -> None:
    bound = read(GENERATE, '{"prompt":null,"stream":null,"keep_alive":null,"warp":9}')
    assert (bound["prompt"], bound["stream"], bound["keep_alive"]) == ("", None, None)
    assert "warp" not in bound


def test_a_format_is_kept_as_it_stood() -> None:
    assert read(GENERATE, '{"format": {"b" :1, "a":2}}')["format"] == b'{"b" :1, "a":2}'
    assert read(GENERATE, '{"format":null}')["format"] == b"null"


@pytest.mark.parametrize(
    ("value", "nanoseconds"),
    [("5m", 300 * 10**9), (30, 30 * 10**9), (1.5, 1_500_000_000), (0, 0), (-1, 2**63 - 1), ("-1s", 2**63 - 1)],
)
def test_keep_alive_is_a_duration_or_seconds(value: object, nanoseconds: int) -> None:
    assert read(GENERATE, json.dumps({"keep_alive": value}))["keep_alive"] == nanoseconds


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("###", 0),
        ("a", 0),
        ("ab", 0),
        ("abc", 0),
        ("ab=c", 2),
        ("abcd=", 4),
        ("ab==x", 4),
        ("é", 0),
        ("ab=", 3),
        ("abc=d", 4),
        ("====", 0),
        ("abcde", 4),
        ("YQ==YQ==", 4),
    ],
)
def test_bad_base64_names_the_byte(text: str, at: int) -> None:
    with pytest.raises(GoError, match=f"input byte {at}$"):
        decode_base64(text)


def test_line_breaks_in_base64_are_passed_over() -> None:
    assert decode_base64("aGVs\nbG8=\r\n") == b"hello"
