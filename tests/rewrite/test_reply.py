from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.rewrite.context import Origin, classify
from proxy.rewrite.reply import GenerateMapper, map_error
from proxy.wire.gojson import go_quote

ASKED = '[{"role":"user","content":"tell me"}]'
HEAD = '{"model":"tiny","created_at":"2026-11-21T04:45:15.897321134Z",'
METRICS = (
    '"total_duration":282845804,"load_duration":276928421,"prompt_eval_count":11,"prompt_eval_duration":1007379,'
    '"eval_count":6,"eval_duration":3932960'
)


def frame(message: str, rest: str = '"done":false', end: str = "\n") -> bytes:
    return f'{HEAD}"message":{{"role":"assistant",{message}}},{rest}}}{end}'.encode()


def mapped(line: bytes, mapper: GenerateMapper | None = None) -> str:
    return (mapper or GenerateMapper(ASKED)).map_frame(line).decode()


def conversation(last: str) -> Any:
    held = classify(json.loads(last)["context"])
    assert held.origin is Origin.OWN
    return json.loads(held.messages)


def test_a_token_becomes_a_response() -> None:
    assert mapped(frame('"content":" ta\\u003c\\"eli"')) == HEAD + '"response":" ta\\u003c\\"eli","done":false}\n'


def test_thinking_follows_the_response() -> None:
    line = frame('"content":"","thinking":"hm"')
    assert mapped(line) == HEAD + '"response":"","thinking":"hm","done":false}\n'


def test_the_last_frame_carries_the_conversation_in_generates_order() -> None:
    mapper = GenerateMapper(ASKED)
    for text in (" ta\\u003c", "\u00e9li", ""):
        mapped(frame(f'"content":"{text}"'), mapper)
    last = mapped(frame('"content":""', f'"done":true,"done_reason":"length",{METRICS}'), mapper)
    before, _, after = last.partition('"context":')
    assert before == HEAD + '"response":"","done":true,"done_reason":"length",'
    assert after[after.index("]") :] == f"],{METRICS}}}\n"
    assert conversation(last) == [
        {"role": "user", "content": "tell me"},
        {"role": "assistant", "content": " ta<\u00e9li"},
    ]


def test_thinking_is_part_of_the_conversation() -> None:
    mapper = GenerateMapper(ASKED)
    mapped(frame('"content":"","thinking":"h\\n"'), mapper)
    mapped(frame('"content":"a","thinking":"m"'), mapper)
    last = mapped(frame('"content":"b"', '"done":true'), mapper)
    assert conversation(last)[1] == {"role": "assistant", "content": "ab", "thinking": "h\nm"}


def test_a_whole_reply_is_mapped_as_one_frame() -> None:
    whole = mapped(frame('"content":"all of it","thinking":"t"', f'"done":true,"done_reason":"stop",{METRICS}', ""))
    assert whole.startswith(
        HEAD + '"response":"all of it","thinking":"t","done":true,"done_reason":"stop","context":[0,'
    )
    assert whole.endswith(METRICS + "}")
    assert conversation(whole)[1] == {"role": "assistant", "content": "all of it", "thinking": "t"}


def test_logprobs_stand_last_and_keep_their_numbers() -> None:
    logprobs = '"logprobs":[{"token":"a","logprob":-1.50e-7,"bytes":[97]}]'
    line = frame('"content":"a"', f'"done":true,"done_reason":"stop",{logprobs},{METRICS}')
    assert mapped(line).endswith(f"{METRICS},{logprobs}}}\n")
    assert (
        mapped(frame('"content":"a"', f'"done":false,{logprobs}'))
        == f'{HEAD}"response":"a","done":false,{logprobs}}}\n'
    )


CALLS = '"tool_calls":[{"id":"call_ab12cd34","function":{"index":0,"name":"f","arguments":{"id":"call_ab12cd34"}}}]'


def test_tool_calls_come_with_the_last_frame_and_without_made_up_ids() -> None:
    # GenerateHandler: "if cr.Done && len(toolCalls) > 0"; only ChatHandler sets ids.
    assert mapped(frame(f'"content":"",{CALLS}')) == ""
    assert mapped(frame(f'"content":"x",{CALLS}')) == HEAD + '"response":"x","done":false}\n'
    last = mapped(frame(f'"content":"",{CALLS}', f'"done":true,"done_reason":"stop",{METRICS}'))
    assert last.endswith(
        METRICS + ',"tool_calls":[{"function":{"index":0,"name":"f","arguments":{"id":"call_ab12cd34"}}}]}\n'
    )


def test_a_rendered_prompt_is_mapped_too() -> None:
    rest = '"done":false,"_debug_info":{"rendered_template":"x"}}'
    line = '{"model":"m","created_at":"t","message":{"role":"","content":""},' + rest
    assert mapped(line.encode()) == '{"model":"m","created_at":"t","response":"",' + rest


@pytest.mark.parametrize("reason", ["load", "unload"])
def test_a_load_carries_no_conversation(reason: str) -> None:
    line = '{"model":"m","created_at":"t","message":{"role":"assistant","content":""},"done":true,"done_reason":"%s"}'
    assert mapped((line % reason).encode()) == (
        f'{{"model":"m","created_at":"t","response":"","done":true,"done_reason":"{reason}"}}'
    )


def test_fields_of_a_later_ollama_stay() -> None:
    line = frame('"content":"a"', '"done":false,"new<field":[1.0]')
    assert mapped(line) == HEAD + '"response":"a","done":false,"new\\u003cfield":[1.0]}\n'


@pytest.mark.parametrize(
    "line", [b"", b"\n", b"no json\n", b'{"error":"x"}\n', b'{"message":1}\n', b"[1]\n", b"\xff\n"]
)
def test_what_is_no_chat_frame_stays_as_it_is(line: bytes) -> None:
    assert GenerateMapper(ASKED).map_frame(line) == line


def test_an_error_that_names_chat_names_generate() -> None:
    body = b'{"error":"\\"m\\u003c\\" does not support chat"}'
    assert map_error(body) == b'{"error":"\\"m\\u003c\\" does not support generate"}'
    assert GenerateMapper(ASKED).map_frame(body + b"\n") == map_error(body) + b"\n"
    for other in (
        b'{"error":"\\"m\\" does not support chat!"}',
        b'{"error":5,"x":"does not support chat"}',
        b"does not support chat",
    ):
        assert map_error(other) == other


@given(st.lists(st.tuples(st.text(), st.none() | st.text(min_size=1)), min_size=1))
def test_fast_and_slow_way_agree(tokens: list[tuple[str, str | None]]) -> None:
    fast, slow = GenerateMapper(ASKED), GenerateMapper(ASKED)
    for content, thinking in tokens:
        thought = "" if thinking is None else f',"thinking":{go_quote(thinking)}'
        line = frame(f'"content":{go_quote(content)}{thought}')
        # A space that Go would not write keeps the line off the fast way.
        assert fast.map_frame(line) == slow.map_frame(line.replace(b',"message"', b', "message"'))
    last = frame('"content":""', '"done":true')
    assert fast.map_frame(last) == slow.map_frame(last)


@given(st.binary())
def test_any_line_is_mapped(line: bytes) -> None:
    GenerateMapper(ASKED).map_frame(line)
    GenerateMapper(ASKED).map_frame(b'{"message":{"content":' + line + b'},"done":true}')


def test_a_long_token_is_one_pass() -> None:
    text = '\\"' * 1_000_000
    assert mapped(frame(f'"content":"{text}"')).endswith(text + '","done":false}\n')
