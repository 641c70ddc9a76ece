"""A reply that is wanted whole."""

from __future__ import annotations

import json

import pytest

from proxy.errors import UpstreamBroken
from proxy.rewrite.assemble import WholeReply
from proxy.rewrite.v1.reply import WholeCompletion
from tests.rewrite.v1.frames import CALL, METRICS, OPENAI_CALL, USAGE, chat_frame, new_mapper


def gathered(*lines: bytes) -> tuple[int, bytes]:
    mapped = new_mapper(streams=False)
    whole = WholeCompletion(WholeReply("chat", tools=True), mapped)
    for line in lines:
        whole.add(mapped.map_frame(line))
    return whole.finish()


def test_the_frames_are_put_together_first() -> None:
    end = chat_frame(done=True, done_reason="stop", **METRICS)
    status, body = gathered(
        chat_frame(thinking="h"), chat_frame("a"), chat_frame("b"), chat_frame(tool_calls=[CALL]), end
    )
    answer = json.loads(body)
    assert status == 200
    assert answer["usage"] == USAGE
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "ab", "reasoning": "h", "tool_calls": [OPENAI_CALL]},
            "finish_reason": "tool_calls",
        }
    ]


def test_an_error_after_tokens_is_a_500() -> None:
    status, body = gathered(chat_frame("a"), b'{"error":"died"}\n')
    assert (status, json.loads(body)["error"]["message"]) == (500, "died")


def test_no_frame_is_no_answer() -> None:
    with pytest.raises(UpstreamBroken):
        gathered()
