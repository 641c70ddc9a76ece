"""What is read of a native frame."""

from __future__ import annotations

import pytest

from proxy.rewrite.v1.frames import read_frame, unix
from proxy.wire.gojson import read_object
from tests.rewrite.v1.frames import METRICS, SECOND, chat_frame


@pytest.mark.parametrize(
    ("text", "second"),
    [
        ('"2026-11-21T04:45:16.437Z"', SECOND),
        ('"2026-11-21T04:45:16.123456789Z"', SECOND),
        ('"2026-11-21T05:45:16+01:00"', SECOND),
        ('"0001-01-01T00:00:00Z"', -62_135_596_800),
        ('"2026-13-01T00:00:00Z"', -62_135_596_800),
        ("", -62_135_596_800),
    ],
)
def test_a_time_is_a_second(text: str, second: int) -> None:
    assert unix(text) == second


def test_what_go_leaves_out_counts_as_nothing() -> None:
    obj = read_object(chat_frame("a"))
    assert obj is not None
    frame = read_frame(obj)
    assert (frame.created, frame.model, frame.done, frame.reason, frame.logprobs) == (SECOND, '"m"', False, "", "")
    assert frame.usage == '"usage":{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}'


def test_the_end_has_the_counts() -> None:
    obj = read_object(chat_frame(done=True, done_reason="stop", **METRICS))
    assert obj is not None
    frame = read_frame(obj)
    assert (frame.done, frame.reason) == (True, '"stop"')
    assert frame.usage == '"usage":{"prompt_tokens":11,"completion_tokens":6,"total_tokens":17}'
