"""What chat and completion have in common: errors, and what is no frame."""

from __future__ import annotations

import pytest

from tests.rewrite.v1.frames import chat_frame, new_mapper


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (404, b'{"error":"model \'x\' not found"}', ("model 'x' not found", "not_found_error")),
        (400, b'{"error":"a \\u003c b"}', ("a \\u003c b", "invalid_request_error")),
        (503, b'{"error":"busy"}', ("busy", "api_error")),
        (500, b"no json", ("no json", "api_error")),
        (
            500,
            b"{}",
            ("something went wrong, please see the ollama server logs for details", "api_error"),
        ),
    ],
)
def test_an_error_has_openais_shape_and_keeps_its_text(status: int, body: bytes, error: tuple[str, str]) -> None:
    message, kind = error
    expected = f'{{"error":{{"message":"{message}","type":"{kind}","param":null,"code":null}}}}\n'
    for streams in (True, False):
        mapped = new_mapper(streams=streams)
        assert mapped.map_body(status, body).decode() == expected
        assert mapped.content_type(status) == b"application/json"


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b'{"error":"the runner died"}\n', "the runner died"),
        (b"<html>\n", "the upstream's reply has a line that is no frame"),
        (b'{"model":"m","message":5}\n', "the upstream's reply has a line that is no frame"),
    ],
)
def test_a_line_that_is_no_frame_ends_the_stream_with_an_error(line: bytes, error: str) -> None:
    mapped = new_mapper()
    assert mapped.map_frame(chat_frame("a")) != b""
    assert mapped.map_frame(line) == b""
    assert mapped.error == error
    assert mapped.map_frame(chat_frame("b", done=True, done_reason="stop")) == b""


def test_an_empty_line_is_nothing() -> None:
    mapped = new_mapper()
    assert mapped.map_frame(b"\n") == b""
    assert mapped.error == ""


def test_frames_are_left_to_be_gathered_where_no_stream_is_wanted() -> None:
    frame = chat_frame("a")
    assert new_mapper(streams=False).map_frame(frame) is frame


def test_only_a_stream_is_told_as_one() -> None:
    assert new_mapper().content_type(200) == b"text/event-stream"
    assert new_mapper(streams=False).content_type(200) == b"application/json"
