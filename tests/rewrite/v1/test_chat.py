"""Chat frames as chunks, byte for byte as either version of Ollama's middleware writes them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.rewrite.v1.frames import (
    CALL,
    METRICS,
    NEWER,
    OLDER,
    OPENAI_CALL,
    SECOND,
    USAGE,
    chat_frame,
    choices,
    events,
    new_mapper,
)

if TYPE_CHECKING:
    from proxy.rewrite.v1.dialect import Dialect

TOKENS = (chat_frame("a"), chat_frame("b"))
END = chat_frame(done=True, done_reason="stop", **METRICS)
HEAD = f'data: {{"id":"chatcmpl-7","object":"chat.completion.chunk","created":{SECOND},"model":"m",'
HEAD += '"system_fingerprint":"fp_ollama","choices":['


def stream(*lines: bytes, dialect: Dialect = OLDER, usage: bool = False) -> str:
    mapped = new_mapper(dialect, usage=usage)
    return b"".join(map(mapped.map_frame, lines)).decode()


def test_each_frame_is_a_chunk_with_the_role() -> None:
    def chunk(content: str, reason: str) -> str:
        delta = f'{{"role":"assistant","content":"{content}"}}'
        return f'{HEAD}{{"index":0,"delta":{delta},"finish_reason":{reason}}}]}}\n\n'

    assert stream(*TOKENS, END) == chunk("a", "null") + chunk("b", "null") + chunk("", '"stop"') + "data: [DONE]\n\n"


def test_since_0_32_6_the_role_comes_once_and_the_reason_apart() -> None:
    def chunk(delta: str, reason: str) -> str:
        return f'{HEAD}{{"index":0,"delta":{{{delta}}},"finish_reason":{reason}}}]}}\n\n'

    assert stream(*TOKENS, END, dialect=NEWER) == (
        chunk('"role":"assistant","content":"a"', "null")
        + chunk('"content":"b"', "null")
        + chunk("", '"stop"')
        + "data: [DONE]\n\n"
    )


@pytest.mark.parametrize("dialect", [OLDER, NEWER])
def test_the_usage_has_an_event_without_choices_before_the_end(dialect: Dialect) -> None:
    *_, usage, end = events(new_mapper(dialect, usage=True), *TOKENS, END)
    assert (usage["choices"], usage["usage"], end) == ([], USAGE, "[DONE]")
    assert list(usage) == ["id", "object", "created", "model", "system_fingerprint", "choices", "usage"]


def test_thinking_is_reasoning() -> None:
    found = choices(new_mapper(), chat_frame(thinking="hm"), chat_frame("a"))
    assert [choice["delta"] for choice in found] == [
        {"role": "assistant", "content": "", "reasoning": "hm"},
        {"role": "assistant", "content": "a"},
    ]
    found = choices(new_mapper(NEWER), chat_frame(thinking="hm"), chat_frame(thinking="so"), chat_frame("a"))
    assert [choice["delta"] for choice in found] == [
        {"role": "assistant", "content": "", "reasoning": "hm"},
        {"content": "", "reasoning": "so"},
        {"content": "a"},
    ]


def test_thought_and_answer_of_one_frame_are_told_apart() -> None:
    logprobs = [{"token": "a", "logprob": -0.5}]
    mixed = chat_frame("a", thinking="hm", logprobs=logprobs)
    assert choices(new_mapper(), mixed) == [
        {
            "index": 0,
            "delta": {"role": "assistant", "content": "", "reasoning": "hm"},
            "finish_reason": None,
            "logprobs": {"content": logprobs},
        },
        {"index": 0, "delta": {"role": "assistant", "content": "a"}, "finish_reason": None},
    ]
    found = choices(new_mapper(NEWER), mixed)
    assert [choice["delta"] for choice in found] == [{"role": "assistant", "reasoning": "hm"}, {"content": "a"}]


@pytest.mark.parametrize("dialect", [OLDER, NEWER])
def test_calls_of_tools_end_with_their_reason(dialect: Dialect) -> None:
    mapped = new_mapper(dialect)
    found = choices(mapped, chat_frame(tool_calls=[CALL]), END)
    assert found[0]["delta"]["tool_calls"] == [OPENAI_CALL]
    assert found[-1]["finish_reason"] == mapped.finish_reason == "tool_calls"


def test_only_an_older_version_tells_calls_where_the_answer_was_cut() -> None:
    cut = chat_frame(done=True, done_reason="length", **METRICS)
    assert choices(new_mapper(), chat_frame(tool_calls=[CALL]), cut)[-1]["finish_reason"] == "tool_calls"
    assert choices(new_mapper(NEWER), chat_frame(tool_calls=[CALL]), cut)[-1]["finish_reason"] == "length"


def test_an_answer_without_a_token_still_names_the_role() -> None:
    found = choices(new_mapper(NEWER), END)
    assert [choice["delta"] for choice in found] == [{"role": "assistant", "content": ""}, {}]


@pytest.mark.parametrize(("dialect", "later"), [(OLDER, SECOND + 1), (NEWER, SECOND)])
def test_only_an_older_version_goes_with_the_time(dialect: Dialect, later: int) -> None:
    frames = [chat_frame("a"), chat_frame("b"), chat_frame("c", created_at="2026-11-21T04:45:17Z")]
    assert [event["created"] for event in events(new_mapper(dialect), *frames)] == [SECOND, SECOND, later]


def test_a_replaced_character_is_written_as_itself() -> None:
    frame = chat_frame("X").replace(b"X", b"\\ufffd\\\\ufffd")
    assert '"content":"\ufffd\\\\ufffd"' in stream(frame)


@given(st.lists(st.tuples(st.text(max_size=4), st.text(max_size=4)), max_size=5), st.sampled_from([OLDER, NEWER]))
def test_the_short_way_and_the_long_way_write_the_same(texts: list[tuple[str, str]], dialect: Dialect) -> None:
    frames = [chat_frame(content, **({"thinking": thought} if thought else {})) for content, thought in texts]
    longer = [frame.replace(b'"done":false', b'"done": false') for frame in frames]
    assert stream(*frames, dialect=dialect) == stream(*longer, dialect=dialect)


def test_a_whole_answer_has_the_members_in_ollamas_order() -> None:
    mapped = new_mapper(streams=False)
    body = mapped.map_body(200, chat_frame("a", thinking="hm", done=True, done_reason="length", **METRICS))
    assert body.decode() == (
        f'{{"id":"chatcmpl-7","object":"chat.completion","created":{SECOND},"model":"m",'
        '"system_fingerprint":"fp_ollama","choices":[{"index":0,"message":{"role":"assistant","content":"a",'
        '"reasoning":"hm"},"finish_reason":"length"}],"usage":{"prompt_tokens":11,"completion_tokens":6,'
        '"total_tokens":17}}\n'
    )
    assert mapped.finish_reason == "length"


@pytest.mark.parametrize(("dialect", "reason"), [(OLDER, "tool_calls"), (NEWER, "length")])
def test_a_whole_answer_with_calls_that_was_cut(dialect: Dialect, reason: str) -> None:
    frame = chat_frame(tool_calls=[CALL], done=True, done_reason="length", **METRICS)
    choice = json.loads(new_mapper(dialect, streams=False).map_body(200, frame))["choices"][0]
    assert choice["finish_reason"] == reason
    assert choice["message"]["tool_calls"] == [OPENAI_CALL]


def test_a_prompt_that_was_only_rendered_is_told_where_no_stream_was_asked_for() -> None:
    frame = chat_frame(_debug_info={"rendered_template": "x"})
    assert json.loads(new_mapper(streams=False).map_body(200, frame))["_debug_info"] == {"rendered_template": "x"}
    assert b"_debug_info" not in new_mapper().map_body(200, frame)


def test_a_model_that_was_only_loaded_is_a_stream_of_its_own() -> None:
    body = new_mapper().map_body(200, chat_frame(done=True, done_reason="load")).decode()
    assert '"finish_reason":"load"' in body
    assert body.endswith("data: [DONE]\n\n")
