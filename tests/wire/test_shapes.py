from __future__ import annotations

import json

import pytest

from proxy.wire.routes import Family
from proxy.wire.shapes import error_body, stream_error, stream_separator


def test_each_family_gets_its_own_error() -> None:
    assert json.loads(error_body(Family.API, 502, "gone")) == {"error": "gone"}
    assert json.loads(error_body(Family.OPENAI, 400, "bad")) == {
        "error": {"message": "bad", "type": "invalid_request_error", "param": None, "code": None}
    }
    assert json.loads(error_body(Family.ANTHROPIC, 503, "busy", "r1")) == {
        "type": "error",
        "error": {"type": "overloaded_error", "message": "busy"},
        "request_id": "r1",
    }


@pytest.mark.parametrize("family", list(Family))
def test_no_error_frame_can_be_taken_for_the_end_of_a_good_stream(family: Family) -> None:
    frame = stream_error(family, "lost", "upstream_broken")
    assert b"[DONE]" not in frame
    assert b'"done":true' not in frame
    assert b"message_stop" not in frame
    assert b"lost" in frame
    assert frame.endswith(b"\n" if family is Family.API else b"\n\n")


def test_a_failed_response_is_an_error_to_who_looks_for_one_and_to_who_reads_events_by_their_type() -> None:
    name, data = stream_error(Family.RESPONSES, "lost", "upstream_broken").decode().strip().split("\ndata: ")
    told = json.loads(data)
    assert (name, told["type"]) == ("event: response.failed", "response.failed")
    assert (told["error"]["message"], told["response"]["error"]["message"]) == ("lost", "lost")
    assert told["response"]["status"] == "failed"


@pytest.mark.parametrize(
    ("family", "tail", "separator"),
    [
        (Family.API, b"", b""),
        (Family.API, b"}\n", b""),
        (Family.API, b'"a', b"\n"),
        (Family.OPENAI, b"\n\n", b""),
        (Family.OPENAI, b"}\n", b"\n"),
        (Family.ANTHROPIC, b'"a', b"\n\n"),
    ],
)
def test_a_cut_frame_is_closed_before_the_error(family: Family, tail: bytes, separator: bytes) -> None:
    assert stream_separator(family, tail) == separator
