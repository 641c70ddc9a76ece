"""A provider's stream and whole answer, as Ollama would have given them."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import UpstreamBroken
from proxy.rewrite.assemble import WholeReply
from proxy.rewrite.provider.reply import ChatReply, EmbedReply, GenerateReply, Renamed
from proxy.rewrite.reply import GenerateMapper
from proxy.wire.lines import LineSplitter

NOW = "2026-11-26T01:00:00.5Z"
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def reply(**more: Any) -> ChatReply:
    return ChatReply("ours", lambda: NOW, **more)


def event(delta: Any = None, reason: str | None = None, **more: Any) -> bytes:
    choices = [] if delta is None and reason is None else [{"index": 0, "delta": delta or {}, "finish_reason": reason}]
    return b"data: " + json.dumps({"id": "x", "model": "theirs", "choices": choices, **more}).encode() + b"\n"


DONE = b"data: [DONE]\n"
END = (event({}, "stop"), event(usage=USAGE), DONE)


def frames(*lines: bytes, of: Any = None) -> list[Any]:
    translating = of or reply()
    told = b"".join(translating.feed(line) for line in lines)
    assert not told or told.endswith(b"\n")
    return [json.loads(line) for line in told.splitlines()]


def message(text: str = "", **more: Any) -> dict[str, Any]:
    said = {"role": "assistant", "content": text, **more}
    return {"model": "ours", "created_at": NOW, "message": said, "done": False}


LAST = {**message(), "done": True, "done_reason": "stop", "prompt_eval_count": 3, "eval_count": 2}


def test_a_stream_becomes_frames_with_ollamas_members_in_ollamas_order() -> None:
    told = frames(event({"role": "assistant", "content": ""}), event({"content": "a<"}), event({"content": "b"}), *END)
    assert told == [message("a<"), message("b"), LAST]
    assert list(told[-1]) == list(LAST)
    assert b'"content":"a\\u003c"' in reply().feed(event({"content": "a<"}))


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
def test_what_a_model_thinks_is_told_as_thinking_and_not_to_who_asked_for_none(field: str) -> None:
    lines = [event({field: "hm", "content": None}), event({"content": "a"}), *END]
    assert frames(*lines) == [message("", thinking="hm"), message("a"), LAST]
    assert frames(*lines, of=reply(tells_thinking=False)) == [message("a"), LAST]


def test_both_words_for_thinking_are_one_thought() -> None:
    assert frames(event({"reasoning": "hm", "reasoning_content": "hm"})) == [message("", thinking="hm")]


@pytest.mark.parametrize(
    ("reason", "told"), [("stop", "stop"), ("length", "length"), ("tool_calls", "stop"), ("content_filter",) * 2]
)
def test_the_reason_is_told_in_ollamas_words(reason: str, told: str) -> None:
    assert frames(event({"content": "a"}, reason), DONE)[-1]["done_reason"] == told


def test_a_count_that_nobody_told_is_left_out() -> None:
    assert frames(event({"content": "a"}, "stop"), DONE)[-1] == {**message(), "done": True, "done_reason": "stop"}


def test_a_refusal_is_what_it_says() -> None:
    assert frames(event({"refusal": "no", "content": None})) == [message("no")]


def test_probabilities_of_tokens_come_along() -> None:
    content = [{"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []}]
    line = b"data: " + json.dumps({"choices": [{"delta": {"content": "a"}, "logprobs": {"content": content}}]}).encode()
    assert frames(line) == [{**message("a"), "logprobs": content}]


# --- calls of tools


def pieces(index: int | None, *texts: str, name: str = "f", identity: str = "call_1") -> list[bytes]:
    number = {} if index is None else {"index": index}
    first = {**number, "id": identity, "type": "function", "function": {"name": name, "arguments": texts[0]}}
    rest = [{**number, "function": {"arguments": text}} for text in texts[1:]]
    return [event({"tool_calls": [piece]}) for piece in [first, *rest]]


def called(*calls: tuple[str, str, Any]) -> dict[str, Any]:
    told = [
        {"id": identity, "function": {"index": number, "name": name, "arguments": arguments}}
        for number, (identity, name, arguments) in enumerate(calls)
    ]
    return message("", tool_calls=told)


def test_a_call_is_put_together_and_told_whole() -> None:
    lines = [*pieces(0, "", '{"a', '":1', ',\n"b":"\\n"}'), event({}, "tool_calls"), event(usage=USAGE), DONE]
    assert frames(*lines) == [called(("call_1", "f", {"a": 1, "b": "\n"})), LAST]


def test_calls_come_side_by_side_in_their_order() -> None:
    first, second = pieces(0, "", '{"a":1}'), pieces(1, "{", "}", name="g", identity="call_2")
    lines = [first[0], second[0], first[1], second[1], event({}, "tool_calls")]
    assert frames(*lines) == [called(("call_1", "f", {"a": 1}), ("call_2", "g", {}))]


@pytest.mark.parametrize("index", [0, None])
def test_calls_that_are_all_numbered_the_same_are_told_apart_by_their_ids(index: int | None) -> None:
    lines = [*pieces(index, '{"a":', "1}"), *pieces(index, '{"b":', "2}", identity="call_2"), event({}, "tool_calls")]
    assert frames(*lines) == [called(("call_1", "f", {"a": 1}), ("call_2", "f", {"b": 2}))]


def test_a_call_without_arguments_or_id_has_none() -> None:
    (told,) = frames(event({"tool_calls": [{"index": 0, "function": {"name": "f"}}]}, "tool_calls"))
    assert told["message"]["tool_calls"] == [{"function": {"index": 0, "name": "f", "arguments": {}}}]


@pytest.mark.parametrize("arguments", ['{"a":', "[]", '"text"', '{"a":NaN}', '{"a":1}{"b":2}'])
def test_a_call_that_cannot_be_read_is_an_error_and_not_half_a_call(arguments: str) -> None:
    told = frames(*pieces(0, arguments), event({}, "tool_calls"), event(usage=USAGE), DONE)
    assert told == [{"error": "the provider's call of a tool cannot be read"}]


# --- ends


@pytest.mark.parametrize(
    "end",
    [(), (event({}, "stop"),), (DONE,), (event(usage=USAGE), DONE), (event({}, "stop"), event(usage=USAGE))],
)
def test_a_stream_that_breaks_off_has_no_last_frame(end: tuple[bytes, ...]) -> None:
    assert frames(event({"content": "a"}), *end) == [message("a")]


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b'data: {"error":{"message":"overloaded","code":503}}\n', "overloaded"),
        (b'data: {"error":"overloaded"}\n', "overloaded"),
        (b'data: {"error":{"code":1}}\n', "the provider's reply cannot be read"),
        (b"data: nonsense\n", "the provider's reply cannot be read"),
        (b"data: []\n", "the provider's reply cannot be read"),
        (event({"content": [{"type": "text"}]}), "the provider's reply cannot be read"),
        (event({}, "error"), "the provider's answer ended in an error"),
    ],
)
def test_what_goes_wrong_under_way_is_an_error_line_and_the_end(line: bytes, text: str) -> None:
    assert frames(event({"content": "a"}), line, event({"content": "b"}), *END) == [message("a"), {"error": text}]


def test_lines_that_carry_nothing_become_nothing() -> None:
    lines = [b": OPENROUTER PROCESSING\n", b"event: message\n", b"\r\n", b"data:\n", b"id: 1\n"]
    assert frames(*lines) == []


# --- whole


def whole(said: dict[str, Any], reason: str | None = "stop", **more: Any) -> bytes:
    return json.dumps({"choices": [{"message": said, "finish_reason": reason}], "usage": USAGE, **more}).encode()


def test_a_whole_answer_is_ollamas_whole_answer() -> None:
    told = reply().whole(whole({"role": "assistant", "content": "a", "reasoning_content": "hm"}))
    assert json.loads(told) == {**LAST, "message": {"role": "assistant", "content": "a", "thinking": "hm"}}
    assert not told.endswith(b"\n")


def test_calls_of_a_whole_answer_are_never_put_together() -> None:
    one = {"type": "function", "function": {"name": "f", "arguments": "{}"}}
    told = json.loads(reply().whole(whole({"content": None, "tool_calls": [one, one]}, "tool_calls")))
    assert [call["function"]["index"] for call in told["message"]["tool_calls"]] == [0, 1]
    assert told["done_reason"] == "stop"


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"[]", b"{}", b'{"choices":[]}', b'{"error":{"message":"x"}}', b'{"choices":[{}]}'),
        whole({"content": 1}),
        whole({"content": "a"}, "error"),
        whole({"tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}),
    ],
)
def test_what_is_no_whole_answer_is_told_to_be_none(body: bytes) -> None:
    with pytest.raises(UpstreamBroken):
        reply().whole(body)


# --- generate


def test_a_generate_gets_its_own_frames_and_a_context_to_go_on_with() -> None:
    messages = '[{"role":"user","content":"hi"}]'
    told = frames(event({"content": "a"}), *END, of=GenerateReply(reply(), GenerateMapper(messages)))
    assert told[0] == {"model": "ours", "created_at": NOW, "response": "a", "done": False}
    assert (told[1]["response"], told[1]["done_reason"], told[1]["eval_count"]) == ("", "stop", 2)
    assert told[1]["context"]
    body = GenerateReply(reply(), GenerateMapper(messages)).whole(whole({"content": "a"}))
    assert json.loads(body)["response"] == "a"
    assert json.loads(body)["context"] == told[1]["context"]


# --- embeddings


def test_vectors_are_told_in_the_order_of_their_texts() -> None:
    rows = [{"index": 1, "embedding": [2, 0.5]}, {"index": 0, "embedding": [1e-07]}]
    told = EmbedReply("ours", 2).whole(json.dumps({"data": rows, "usage": {"prompt_tokens": 4}}).encode())
    assert told == b'{"model":"ours","embeddings":[[1e-07],[2,0.5]],"prompt_eval_count":4}'
    assert EmbedReply("ours", 1).feed(b"data: {}\n") == b""


@pytest.mark.parametrize(
    "data",
    [
        *(None, [], [{"embedding": [1]}], [{"embedding": [1]}] * 3, [{"index": 0, "embedding": [1]}] * 2),
        *([{"embedding": vector}] * 2 for vector in ("AAAA", [], [True])),
    ],
)
def test_what_has_not_a_vector_for_each_text_is_no_answer(data: Any) -> None:
    with pytest.raises(UpstreamBroken):
        EmbedReply("ours", 2).whole(json.dumps({"data": data}).encode())


# --- renamed


def test_only_the_models_name_is_put_back() -> None:
    renamed = Renamed("ours")
    assert renamed.feed(b'data: {"id":1, "model":"theirs","choices":[]}\n') == (
        b'data: {"id":1, "model":"ours","choices":[]}\n'
    )
    for line in (DONE, b": a comment\n", b"\n", b'data: {"error":{"message":"x"}}\n', b"data: nonsense\n"):
        assert renamed.feed(line) == line
    assert renamed.feed(b'data:{"model":1}\r\n') == b'data: {"model":"ours"}\n'
    assert renamed.whole(b'{"model":"theirs", "data":[0.10]}') == b'{"model":"ours", "data":[0.10]}'
    assert renamed.whole(b'{"data":[]}') == b'{"data":[]}'
    with pytest.raises(UpstreamBroken):
        renamed.whole(b"<html>")


# --- for every input

_texts = st.lists(st.text(max_size=6), max_size=6)


@given(_texts, _texts, st.sampled_from([b"\n", b"\r\n"]), st.data())
def test_however_a_stream_is_cut_its_texts_arrive_whole(
    texts: list[str], thoughts: list[str], line_end: bytes, data: st.DataObject
) -> None:
    lines = [*(event({"reasoning": each}) for each in thoughts), *(event({"content": each}) for each in texts), *END]
    stream = b"".join(line.replace(b"\n", line_end) + line_end for line in lines)
    places = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=5)))
    splitter, translating, gathered = LineSplitter(), reply(), WholeReply("chat")
    for start, end in itertools.pairwise([0, *places, len(stream)]):
        for line in splitter.feed(stream[start:end]):
            for frame in translating.feed(line).splitlines(keepends=True):
                gathered.add(frame)
    status, body = gathered.finish()
    said = json.loads(body)["message"]
    assert (status, said["content"], said.get("thinking", "")) == (200, "".join(texts), "".join(thoughts))


@given(st.lists(st.binary(max_size=30).map(lambda piece: b"data: " + piece.replace(b"\n", b"") + b"\n"), max_size=5))
def test_nothing_that_a_provider_sends_is_a_fault_of_ours(lines: list[bytes]) -> None:
    for translating in (reply(), GenerateReply(reply(), GenerateMapper("[]")), Renamed("ours")):
        for line in lines:
            told = translating.feed(line)
            assert not told or told.endswith(b"\n")


_NAMES = [
    *("choices", "delta", "message", "content", "reasoning", "tool_calls", "function", "name", "arguments", "id"),
    *("index", "finish_reason", "usage", "prompt_tokens", "error", "logprobs", "data", "embedding"),
]
_chunk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(_NAMES),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["choices", "usage", "error", "data"]), _chunk))
def test_no_shape_of_a_chunk_or_an_answer_is_a_fault_of_ours(chunk: dict[str, Any]) -> None:
    body = json.dumps(chunk).encode()
    for line in reply().feed(b"data: " + body + b"\n").splitlines():
        json.loads(line)
    for translating in (reply(), EmbedReply("m", 1)):
        try:
            json.loads(translating.whole(body))
        except UpstreamBroken:
            continue
