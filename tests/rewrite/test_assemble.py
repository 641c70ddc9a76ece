from __future__ import annotations

import json
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import UpstreamBroken
from proxy.rewrite.assemble import WholeReply
from proxy.wire.gojson import go_quote

HEAD = '{"model":"tiny","created_at":"2026-11-21T04:45:15.897321134Z",'
METRICS = '"total_duration":282845804,"load_duration":276928421,"prompt_eval_count":11,"eval_count":6'
Kind = Literal["chat", "generate"]


def whole(kind: Kind, *lines: str, tools: bool = False) -> tuple[int, str]:
    reply = WholeReply(kind, tools=tools)
    for line in lines:
        reply.add(line.encode() + b"\n")
    status, body = reply.finish()
    return status, body.decode()


def text(kind: Kind, inner: str, rest: str = '"done":false') -> str:
    """One frame; ``inner`` starts with the text's own JSON string."""
    if kind == "generate":
        return f'{HEAD}"response":{inner},{rest}}}'
    return f'{HEAD}"message":{{"role":"assistant","content":{inner}}},{rest}}}'


KINDS = pytest.mark.parametrize("kind", ["chat", "generate"])


@KINDS
def test_the_answer_is_the_last_frame_with_all_the_text(kind: Kind) -> None:
    rest = f'"done":true,"done_reason":"length",{METRICS}'
    lines = (text(kind, '" ta\\u003c"'), text(kind, '"\u00e9li"'), text(kind, '"."', rest))
    assert whole(kind, *lines) == (200, text(kind, '" ta\\u003c\u00e9li."', rest))


@KINDS
def test_thinking_is_joined_behind_the_text(kind: Kind) -> None:
    lines = (text(kind, '"","thinking":"h"'), text(kind, '"a","thinking":"m"'), text(kind, '""', '"done":true'))
    assert whole(kind, *lines) == (200, text(kind, '"a","thinking":"hm"', '"done":true'))


@KINDS
def test_logprobs_are_joined_where_the_struct_has_them(kind: Kind) -> None:
    one, two = '{"token":"a","logprob":-1.50e-7}', '{"token":"b","logprob":-0}'
    lines = (
        text(kind, '"a"', f'"done":false,"logprobs":[{one}]'),
        text(kind, '"b"', f'"done":false,"logprobs":[{two}]'),
        text(kind, '""', f'"done":true,{METRICS}'),
    )
    joined = f'"logprobs":[{one},{two}]'
    order = f"{joined},{METRICS}" if kind == "chat" else f"{METRICS},{joined}"
    assert whole(kind, *lines) == (200, text(kind, '"ab"', f'"done":true,{order}'))


def call(name: str) -> str:
    return f'{{"id":"call_1","function":{{"name":"{name}","arguments":{{}}}}}}'


def test_tool_calls_of_all_frames_count_where_there_were_tools() -> None:
    lines = (
        text("chat", f'"","tool_calls":[{call("f")}]'),
        text("chat", f'"","tool_calls":[{call("g")},{call("h")}]'),
        text("chat", '""', '"done":true'),
    )
    calls = f"{call('f')},{call('g')},{call('h')}"
    assert whole("chat", *lines, tools=True)[1] == text("chat", f'"","tool_calls":[{calls}]', '"done":true')
    # ChatHandler: "if len(req.Tools) > 0"; without, only the last frame's.
    assert whole("chat", *lines)[1] == text("chat", '""', '"done":true')


def test_thinking_stands_before_tool_calls() -> None:
    lines = (text("chat", '"","thinking":"t"'), text("chat", f'"","tool_calls":[{call("f")}]', '"done":true'))
    assert whole("chat", *lines, tools=True)[1] == text(
        "chat", f'"","thinking":"t","tool_calls":[{call("f")}]', '"done":true'
    )


@KINDS
def test_an_error_after_tokens_is_a_500_and_nothing_counts_after_it(kind: Kind) -> None:
    lines = (text(kind, '"a"'), '{"error":"unexpected \\u003cEOF"}', text(kind, '"b"', '"done":true'))
    assert whole(kind, *lines) == (500, '{"error":"unexpected \\u003cEOF"}')
    assert whole(kind, '{"error":{"a":1}}') == (500, '{"error":"unexpected error format in response"}')


@KINDS
def test_a_single_body_is_its_own_answer(kind: Kind) -> None:
    for rest in ('"done":true,"done_reason":"load"', '"done":false,"_debug_info":{"rendered_template":"x"}'):
        assert whole(kind, text(kind, '""', rest)) == (200, text(kind, '""', rest))


@KINDS
def test_it_tells_when_ollama_has_nothing_more_to_say(kind: Kind) -> None:
    reply = WholeReply(kind)
    reply.add(text(kind, '"a"').encode())
    assert not reply.complete
    reply.add(text(kind, '""', '"done":true').encode())
    assert reply.complete
    assert repr(reply) == f"<WholeReply {kind} 2 frames, complete>"
    failed = WholeReply(kind)
    failed.add(b'{"error":"x"}')
    assert failed.complete


@pytest.mark.parametrize("lines", [[], ["\n"], ["not json"], ["[1]"]])
def test_a_reply_without_a_frame_is_broken(lines: list[str]) -> None:
    with pytest.raises(UpstreamBroken):
        whole("chat", *lines)


@given(st.sampled_from(["chat", "generate"]), st.lists(st.tuples(st.text(), st.text()), min_size=1))
def test_joined_texts_are_the_texts_joined(kind: Kind, parts: list[tuple[str, str]]) -> None:
    lines = [text(kind, f'{go_quote(a)},"thinking":{go_quote(b)}' if b else go_quote(a)) for a, b in parts]
    frame = json.loads(whole(kind, *lines, text(kind, '""', '"done":true'))[1])
    said = frame if kind == "generate" else frame["message"]
    assert said["response" if kind == "generate" else "content"] == "".join(a for a, _ in parts)
    assert said.get("thinking", "") == "".join(b for _, b in parts)


@given(st.sampled_from(["chat", "generate"]), st.lists(st.binary()))
def test_any_lines_give_an_answer_or_one_error(kind: Kind, lines: list[bytes]) -> None:
    reply = WholeReply(kind, tools=True)
    for line in lines:
        reply.add(b'{"message":{"content":"a","tool_calls":' + line + b"}}")
        reply.add(line)
    try:
        status, _ = reply.finish()
    except UpstreamBroken:
        return
    assert status in (200, 500)
