"""Frames of a generate as chunks of a completion."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from tests.rewrite.v1.frames import CALL, METRICS, SECOND, USAGE, events, generate_frame, new_mapper

PATH = "/api/generate"
END = generate_frame(done=True, done_reason="length", context=[1, 2], **METRICS)


def test_each_frame_is_a_chunk() -> None:
    mapped = new_mapper(path=PATH)
    assert mapped.map_frame(generate_frame("a")).decode() == (
        f'data: {{"id":"cmpl-7","object":"text_completion","created":{SECOND},"choices":'
        '[{"text":"a","index":0,"finish_reason":null}],"model":"m","system_fingerprint":"fp_ollama"}\n\n'
    )
    assert mapped.map_frame(END).decode().endswith("data: [DONE]\n\n")
    assert mapped.finish_reason == "length"


@given(st.lists(st.text(max_size=4), max_size=5), st.booleans())
def test_the_short_way_and_the_long_way_write_the_same(texts: list[str], usage: bool) -> None:
    frames = [generate_frame(text) for text in texts]
    longer = [frame.replace(b'"done":false', b'"done": false') for frame in frames]
    assert events(new_mapper(path=PATH, usage=usage), *frames) == events(new_mapper(path=PATH, usage=usage), *longer)


def test_where_usage_is_wanted_every_chunk_has_one() -> None:
    *tokens, usage, end = events(new_mapper(path=PATH, usage=True), generate_frame("a"), END)
    nothing = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    assert [chunk["usage"] for chunk in tokens] == [nothing, nothing]
    assert (usage["choices"], usage["usage"], end) == ([], USAGE, "[DONE]")


def test_there_is_no_place_for_thinking_and_calls() -> None:
    frame = generate_frame("a", thinking="hm", done=True, done_reason="stop", tool_calls=[CALL], logprobs=[{}])
    (chunk, _) = events(new_mapper(path=PATH), frame)
    assert chunk["choices"] == [{"text": "a", "index": 0, "finish_reason": "stop"}]


def test_a_whole_answer_has_the_members_in_ollamas_order() -> None:
    body = new_mapper(path=PATH, streams=False).map_body(200, generate_frame("a", done=True, **METRICS))
    assert body.endswith(b"}\n")
    whole = json.loads(body)
    assert list(whole) == ["id", "object", "created", "model", "system_fingerprint", "choices", "usage"]
    assert whole["choices"] == [{"text": "a", "index": 0, "finish_reason": None}]
