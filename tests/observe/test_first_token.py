from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.observe.first_token import ANSWER, TOKEN, FirstToken
from proxy.wire.routes import Family


def ndjson(**frame: Any) -> bytes:
    return (
        json.dumps(
            {"model": "m:latest", "created_at": "2026-11-21T04:45:15.9Z", **frame}, separators=(",", ":")
        ).encode()
        + b"\n"
    )


def chat(**message: Any) -> bytes:
    return ndjson(message={"role": "assistant", **message}, done=False)


def openai(**delta: Any) -> bytes:
    choices = [{"index": 0, "delta": {"role": "assistant", **delta}, "finish_reason": None}]
    return b"data: " + json.dumps({"model": "m", "choices": choices}, separators=(",", ":")).encode() + b"\n\n"


def event(name: str, **data: Any) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()


def anthropic(**delta: Any) -> bytes:
    return event("content_block_delta", type="content_block_delta", index=0, delta=delta)


CALL = [{"function": {"name": "weather", "arguments": {}}}]
TOOL_START = event(
    "content_block_start",
    type="content_block_start",
    index=0,
    content_block={"type": "tool_use", "id": "t", "input": {}},
)
NOTHING: dict[Family, list[bytes]] = {
    Family.API: [
        chat(content=""),
        ndjson(response="", done=False),
        ndjson(response="", done=True, done_reason="load"),
        ndjson(message={"role": "assistant", "content": ""}, done=True, done_reason="stop", total_duration=5),
        b'{"error":"an error was encountered while running the model: unexpected EOF"}\n',
        b'{"status":"pulling manifest"}\n',
    ],
    Family.OPENAI: [
        openai(content=""),
        openai(content=None),
        b'data: {"model":"","choices":[{"index":0,"delta":{"content":""},"finish_reason":null}]}\n\n',
        b'data: {"choices":[{"text":"","index":0,"finish_reason":"stop"}]}\n\n',
        b'data: {"error":{"message":"content","type":"api_error"}}\n\n',
        b"data: [DONE]\n\n",
        b": comment\n\n",
    ],
    Family.ANTHROPIC: [
        event("message_start", type="message_start", message={"type": "message", "content": [], "model": "m"}),
        event("content_block_start", type="content_block_start", content_block={"type": "text", "text": ""}),
        event("ping", type="ping"),
        anthropic(type="signature_delta", signature="abc"),
        event("message_delta", type="message_delta", delta={"stop_reason": "tool_use"}),
        event("message_stop", type="message_stop"),
    ],
    Family.RESPONSES: [
        # The request's tools and metadata come back in here, as JSON of the caller's own.
        event(
            "response.created",
            response={
                "tools": [{"type": "response.output_text.delta", "delta": "x", "event": "response.output_text.delta"}]
            },
            type="response.created",
        ),
        event("response.output_item.added", item={"content": [], "type": "message"}),
        event("response.content_part.added", part={"text": "", "type": "output_text"}),
        event("response.completed", response={"output": [{"text": "\nevent: response.output_text.delta\n"}]}),
    ],
}
THINKING = {
    Family.API: [chat(content="", thinking=" hm"), ndjson(response="", thinking="hm", done=False)],
    Family.OPENAI: [openai(content="", reasoning=" hm")],
    Family.ANTHROPIC: [anthropic(type="thinking_delta", thinking="hm")],
    Family.RESPONSES: [
        event("response.reasoning_summary_text.delta", delta="hm"),
        event("response.reasoning_text.delta"),
    ],
}
ANSWERS = {
    Family.API: [
        chat(content=" taeli"),
        chat(content="\n"),
        chat(content='"'),
        ndjson(response=" taeli", done=False),
        chat(content="", tool_calls=CALL),
        ndjson(image="iVBORw0KGgo=", done=True),
    ],
    Family.OPENAI: [
        openai(content=" taeli"),
        openai(content="", tool_calls=CALL),
        b'data: {"choices":[{"text":" taeli","index":0,"finish_reason":null}]}\n\n',
        b'data: {"choices": [{"delta": {"content": "spaced"}}]}\n\n',
    ],
    Family.ANTHROPIC: [
        anthropic(type="text_delta", text=" taeli"),
        anthropic(type="input_json_delta", partial_json="{"),
        TOOL_START,
    ],
    Family.RESPONSES: [
        event("response.output_text.delta", content_index=0, delta=" taeli"),
        event("response.function_call_arguments.delta", delta="{"),
        event("response.function_call_arguments.done", arguments=""),
    ],
}
FAMILIES = list(Family)


def feed(detector: FirstToken, *pieces: bytes) -> int:
    found = 0
    for piece in pieces:
        found |= detector.feed(piece)
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_frames_without_a_token_are_passed_over(family: Family) -> None:
    detector = FirstToken(family)

    assert [detector.feed(frame) for frame in NOTHING[family]] == [0] * len(NOTHING[family])
    assert not detector.done


@pytest.mark.parametrize(("family", "frame"), [(family, frame) for family in FAMILIES for frame in ANSWERS[family]])
def test_an_answer_token_is_the_first_token_too(family: Family, frame: bytes) -> None:
    detector = FirstToken(family)

    assert feed(detector, *NOTHING[family]) == 0
    assert detector.feed(frame) == TOKEN | ANSWER
    assert detector.done
    assert detector.feed(frame) == 0


@pytest.mark.parametrize(("family", "thought"), [(family, frame) for family in FAMILIES for frame in THINKING[family]])
def test_thinking_is_the_first_token_but_no_answer(family: Family, thought: bytes) -> None:
    detector = FirstToken(family)

    assert detector.feed(thought) == TOKEN
    assert detector.feed(thought) == 0
    assert not detector.done
    assert detector.feed(ANSWERS[family][0]) == ANSWER
    assert detector.done


@pytest.mark.parametrize("family", FAMILIES)
def test_a_token_is_found_wherever_the_stream_is_cut(family: Family) -> None:
    for thought in THINKING[family]:
        for answer in ANSWERS[family]:
            stream = b"".join(NOTHING[family][:3]) + thought + answer
            for cut in range(len(stream) + 1):
                detector = FirstToken(family)
                assert feed(detector, stream[:cut], stream[cut:]) == TOKEN | ANSWER
                assert detector.done


@pytest.mark.parametrize("family", FAMILIES)
def test_a_token_is_found_byte_by_byte_and_not_before_its_frame(family: Family) -> None:
    for answer in ANSWERS[family]:
        before = b"".join(NOTHING[family])
        detector = FirstToken(family)
        assert not any(detector.feed(before[at : at + 1]) for at in range(len(before)))
        assert feed(detector, *(answer[at : at + 1] for at in range(len(answer)))) == TOKEN | ANSWER


_TRICKY = st.text(alphabet=st.one_of(st.characters(), st.sampled_from(list('"\\{}[]:,\n')))) | st.lists(
    st.sampled_from(
        (
            '"content":"x',
            '"response":"x',
            '"thinking":"x',
            '"tool_calls":[{',
            '"text":"x',
            '"type":"text_delta","text":"x',
            '"type":"tool_use"',
            "event: response.output_text.delta\n",
            "data: ",
            "\\",
            '"',
            "\n",
            "\r\n",
        )
    )
).map("".join)


def go_json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")


@given(text=_TRICKY, cuts=st.lists(st.integers(min_value=0, max_value=600), max_size=5))
def test_text_inside_strings_never_looks_like_a_token(text: str, cuts: list[int]) -> None:
    streams = {
        Family.API: go_json({"model": text, "message": {"role": text, "content": ""}, "done_reason": text}) + b"\n",
        Family.OPENAI: b"data: " + go_json({"id": text, "model": text, "choices": [{"finish_reason": text}]}) + b"\n\n",
        Family.ANTHROPIC: b"event: message_start\ndata: " + go_json({"message": {"model": text}}) + b"\n\n",
        Family.RESPONSES: b"event: response.created\ndata: " + go_json({"response": {"instructions": text}}) + b"\n\n",
    }
    for family, stream in streams.items():
        edges = [0, *sorted(cut for cut in cuts if cut < len(stream)), len(stream)]
        pieces = [stream[a:b] for a, b in pairwise(edges)]

        assert feed(FirstToken(family), *pieces) == 0
