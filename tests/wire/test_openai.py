from __future__ import annotations

import json

import pytest

from proxy.wire.openai import OPTIONS, done_reason, error_message, error_object, event_data


def test_a_reason_that_ollama_has_no_word_for_stays() -> None:
    reasons = ("stop", "length", "tool_calls", "function_call", "content_filter")
    assert [done_reason(reason) for reason in reasons] == ["stop", "length", "stop", "stop", "content_filter"]


def test_no_option_stands_for_two() -> None:
    assert len(set(OPTIONS.values())) == len(OPTIONS)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error":{"message":"bad","type":"x"}}', "bad"),
        (b'{"error":"bad"}', "bad"),
        (b'{"message":"bad"}', "bad"),
        (b'{"detail":"bad"}', "bad"),
        (b'{"error":null,"message":""}', ""),
        (b'{"error":{"code":1}}', ""),
        (b'{"detail":[{"msg":"bad"}]}', ""),
        (b"<html>", ""),
        (b"[]", ""),
    ],
)
def test_the_text_of_an_error_is_found_in_its_usual_places(body: bytes, message: str) -> None:
    assert error_message(body) == message


def test_an_error_without_a_text_has_ollamas_own() -> None:
    assert json.loads(error_object(404, ""))["error"] == {
        "message": "something went wrong, please see the ollama server logs for details",
        "type": "not_found_error",
        "param": None,
        "code": None,
    }


@pytest.mark.parametrize(
    ("line", "data"),
    [
        (b"data: {}\n", b"{}"),
        (b"data:{}\r\n", b"{}"),
        (b"data: [DONE]\n", b"[DONE]"),
        (b"data:\n", b""),
        (b": a comment\n", None),
        (b"event: x\n", None),
        (b"\n", None),
        (b"", None),
    ],
)
def test_a_lines_data_is_what_follows_the_colon(line: bytes, data: bytes | None) -> None:
    assert event_data(line) == data
