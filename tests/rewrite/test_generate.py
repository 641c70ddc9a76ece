from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.rewrite import context
from proxy.rewrite.acceptance import GENERATE_FIELDS
from proxy.rewrite.facts import ModelFacts
from proxy.rewrite.generate import Decision, chat_body, decide
from proxy.wire.gojson import read_object

TEXT = ModelFacts(
    name="m:latest",
    digest="d",
    weights="sha256:w",
    capabilities=frozenset({"completion"}),
    vocab_size=700,
    same_render=True,
    families=frozenset({"llama"}),
    format="gguf",
)
THINKING = dataclasses.replace(TEXT, capabilities=frozenset({"completion", "thinking"}))
OWN = json.loads(context.encode('[{"role":"user","content":"hi"},{"role":"assistant","content":"ho"}]'))


def body(**members: Any) -> bytes:
    return json.dumps({"model": "m", "prompt": "hi", **members}).encode()


def ask(facts: ModelFacts | None = TEXT, own_context: bool = True, **members: Any) -> Decision:
    return decide(read_object(body(**members)), facts, own_context)


def chat(sent: bytes, facts: ModelFacts | None = TEXT, **put: str) -> Any:
    obj = read_object(sent)
    assert obj is not None
    decision = decide(obj, facts)
    assert decision.to_chat, decision
    return json.loads(chat_body(obj, decision, put))


@pytest.mark.parametrize(
    "sent", [b"", b"[1]", b"null", b'{"model": "m", ', b'{"Model":"m","prompt":"x"}', b'{"prompt":"x","prompt":"y"}']
)
def test_rule_1_what_cannot_be_read_for_certain_is_relayed(sent: bytes) -> None:
    assert decide(read_object(sent), TEXT) == Decision(1, decide(read_object(sent), TEXT).reason)


@pytest.mark.parametrize(
    "members",
    [
        *[
            {"keep_alive": "abc"},
            {"prompt": 5},
            {"options": {"num_ctx": "big"}},
            {"think": "yes"},
            {"top_logprobs": 21},
        ],
        *[{"images": ["?"]}, {"context": "x"}, {"stream": 1}],
    ],
)
def test_rule_1_what_ollama_refuses_is_relayed(members: dict[str, Any]) -> None:
    decision = ask(**members)
    assert (decision.rule, decision.to_chat, decision.error) == (1, False, None)


@pytest.mark.parametrize(
    ("keep_alive", "reason"), [(0, "unload"), ("0", "unload"), (1e-10, "unload"), (-1, "load"), (None, "load")]
)
def test_rule_2_without_a_prompt_it_is_a_load_or_an_unload(keep_alive: object, reason: str) -> None:
    for prompt in ("", None):
        decision = ask(prompt=prompt, keep_alive=keep_alive, context=[1])
        assert (decision.rule, decision.reason, decision.to_chat) == (2, reason, False)


@pytest.mark.parametrize(
    "members", [{"raw": True}, {"suffix": "x"}, {"template": "{{ .Prompt }}"}, {"_debug_render_only": True}]
)
def test_rule_3_prompts_that_no_chat_expresses_stay(members: dict[str, Any]) -> None:
    decision = ask(**members)
    assert (decision.rule, decision.reason, decision.to_chat) == (3, next(iter(members)), False)


def test_rule_4_a_foreign_context_stays() -> None:
    assert ask(context=[1, 699]).rule == 4
    assert not ask(context=[1, 699]).to_chat


def test_rule_4_a_context_is_own_or_ollamas_but_never_missing() -> None:
    assert ask(own_context=False) == Decision(4, "own_context is off")
    long = ask(prompt="x" * context.MAX_NEW_CHARS)
    assert (long.rule, long.to_chat) == (4, False)


@pytest.mark.parametrize("numbers", [[700], [-1], [1, 2, 1 << 40], [None, 700]])
@pytest.mark.parametrize(
    "also", [{}, {"raw": True}, {"template": "x"}, {"tools": []}, {"keep_alive": "abc"}, {"MODEL": "m"}]
)
def test_rule_4_a_context_that_would_end_the_server_is_refused(numbers: list[Any], also: dict[str, Any]) -> None:
    decision = ask(context=numbers, **also)
    assert decision.rule == 4
    assert decision.error is not None
    assert decision.error.status == 400
    assert "context holds" in decision.error.message


def test_rule_4_it_is_refused_under_every_name_that_go_reads() -> None:
    for name in ("Context", "CONTEXT", "conte\\u0078t"):
        sent = f'{{"model":"m","prompt":"x","{name}":[999999]}}'.encode()
        assert decide(read_object(sent), TEXT).error is not None
    twice = b'{"prompt":"x","context":[999999],"context":null}'
    assert decide(read_object(twice), TEXT).error is not None


def test_rule_4_a_damaged_context_of_our_own_is_refused() -> None:
    decision = ask(context=[*OWN[:30], (OWN[30] + 1) % 256, *OWN[31:]])
    assert decision.error is not None
    assert "damaged" in decision.error.message


@pytest.mark.parametrize("name", ["tools", "messages", "n_predict"])
def test_rule_5_a_field_that_generate_lacks_stays(name: str) -> None:
    assert (ask(**{name: []}).rule, ask(**{name: []}).to_chat) == (5, False)


@pytest.mark.parametrize(
    "changes",
    [
        {"remote": True},
        {"capabilities": frozenset({"image"})},
        {"capabilities": frozenset({"embedding"})},
        {"format": "safetensors"},
    ],
)
def test_rule_6_other_kinds_of_models_stay(changes: dict[str, Any]) -> None:
    assert (ask(dataclasses.replace(TEXT, **changes)).rule, ask(None).rule) == (6, 6)


def test_rule_6_goes_by_the_request_too() -> None:
    assert ask(model="m:cloud").rule == 6
    assert ask(width=64).rule == 6
    mllama = dataclasses.replace(TEXT, families=frozenset({"mllama"}))
    assert ask(mllama, images=["aGk=", "aGk="]).rule == 6
    assert ask(mllama, images=["aGk="]).to_chat


def test_rule_7_a_modelfile_with_messages_stays() -> None:
    assert ask(dataclasses.replace(TEXT, has_messages=True)).rule == 7


@pytest.mark.parametrize("members", [{"format": "json"}, {"format": None}, {"logprobs": True}])
def test_rule_8_what_chat_treats_in_another_way_stays(members: dict[str, Any]) -> None:
    assert ask(THINKING, **members).rule == 8
    assert ask(TEXT, **members).to_chat
    assert ask(dataclasses.replace(TEXT, parser="qwen3"), **members).to_chat is ("logprobs" in members)


def test_rule_8_a_parser_has_to_be_told_whether_to_look_for_thinking() -> None:
    # GenerateHandler starts it with what the client sent, ChatHandler with the default that both fill in later.
    parsed = dataclasses.replace(THINKING, parser="cogito")
    assert ask(parsed).rule == 8
    assert ask(parsed, think=False).to_chat
    assert ask(parsed, think="high").to_chat
    assert ask(dataclasses.replace(TEXT, parser="ministral")).to_chat


def test_rule_8_lets_thinking_alone_pass() -> None:
    assert ask(THINKING, think=True, logprobs=False).to_chat


@pytest.mark.parametrize("same_render", [None, False])
def test_rule_9_asks_for_the_proof(same_render: bool | None) -> None:
    decision = ask(dataclasses.replace(TEXT, same_render=same_render))
    assert (decision.rule, decision.to_chat) == (9, False)


def test_rule_9_turns_prompt_and_system_into_messages() -> None:
    sent = (
        b'{ "model":"m", "system":"be\\u0020brief", "stream":false, '
        b'"prompt" : "hi \xff<", "options":{"seed":1e0}, "raw":false }x'
    )
    obj = read_object(sent)
    assert obj is not None
    decision = decide(obj, TEXT)
    assert decision.rule == 9
    assert chat_body(obj, decision, {"keep_alive": "-1"}) == (
        b'{ "model":"m", "stream":false, "options":{"seed":1e0},"messages":'
        b'[{"role":"system","content":"be\\u0020brief"},{"role":"user","content":"hi \xff<"}],"keep_alive":-1 }'
    )


def test_rule_9_carries_what_both_requests_have_and_nothing_else() -> None:
    carried: dict[str, Any] = {
        **{"model": "m", "format": "json", "options": {"seed": 1}, "think": False, "truncate": True, "shift": False},
        **{"logprobs": True, "top_logprobs": 3, "stream": True, "keep_alive": "5m"},
    }
    dropped = {"suffix": "", "system": "", "template": None, "raw": False, "context": [], "_debug_render_only": False}
    asked = chat(body(**carried, **dropped, images=["aGk="]))
    assert asked == {**carried, "messages": [{"role": "user", "content": "hi", "images": ["aGk="]}]}


def test_a_conversation_goes_on_as_messages() -> None:
    asked = chat(body(context=OWN, system="later", images=["aGk="]))
    assert asked["messages"] == [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "ho"},
        {"role": "system", "content": "later"},
        {"role": "user", "content": "hi", "images": ["aGk="]},
    ]
    assert "context" not in asked


@pytest.mark.parametrize(
    ("facts", "members"),
    [
        (None, {}),
        (dataclasses.replace(TEXT, has_messages=True), {}),
        (dataclasses.replace(TEXT, same_render=False), {}),
        (THINKING, {"format": "json"}),
        (TEXT, {"tools": [], "messages": [1]}),
        (TEXT, {"_debug_render_only": True}),
    ],
)
def test_only_a_chat_can_go_on_with_an_own_context(facts: ModelFacts | None, members: dict[str, Any]) -> None:
    asked = chat(body(context=OWN, **members), facts)
    assert len(asked["messages"]) == 3
    assert "tools" not in asked
    assert asked.get("_debug_render_only") == members.get("_debug_render_only")


def test_an_own_context_with_what_no_chat_expresses_is_refused_or_ollamas_to_refuse() -> None:
    for name in ("template", "suffix"):
        error = ask(context=OWN, **{name: "x"}).error
        assert error is not None
        assert name in error.message
    assert ask(context=OWN, raw=True) == Decision(3, "raw")
    assert decide(read_object(body(context=OWN, Stream=True)), TEXT).error is not None


def test_a_conversation_goes_on_when_own_contexts_are_switched_off() -> None:
    assert ask(own_context=False, context=OWN).to_chat


_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5) | st.just(OWN),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
_NAME = st.sampled_from(
    [*sorted(GENERATE_FIELDS), "tools", "messages", "Context", "STREAM", "\u212aeep_alive"]
) | st.text(max_size=4)
_FACTS = st.none() | st.builds(
    ModelFacts,
    name=st.just("m:latest"),
    digest=st.just(""),
    weights=st.just("w"),
    capabilities=st.frozensets(st.sampled_from(["completion", "thinking", "image", "insert", "embedding"])),
    remote=st.booleans(),
    has_messages=st.booleans(),
    vocab_size=st.none() | st.integers(1, 300_000),
    same_render=st.none() | st.booleans(),
    parser=st.sampled_from(["", "qwen3"]),
)


@given(st.dictionaries(_NAME, _VALUE, max_size=6), _FACTS, st.booleans())
@example({"prompt": "x", "context": OWN}, None, True)
def test_an_arbitrary_body_is_decided_and_only_the_certain_is_rewritten(
    members: dict[str, Any], facts: ModelFacts | None, own_context: bool
) -> None:
    obj = read_object(json.dumps({"model": "m", "prompt": "p", **members}).encode())
    decision = decide(obj, facts, own_context)
    if not decision.to_chat:
        assert decision.messages == ""
        return
    assert obj is not None
    assert decision.error is None
    asked = json.loads(chat_body(obj, decision))
    assert asked["messages"][-1]["content"] == obj.get("prompt")
    assert set(asked) <= {*GENERATE_FIELDS, "messages"} - {"prompt", "system", "context", "raw", "template", "suffix"}


@given(st.binary() | st.binary().map(lambda tail: b'{"model":"m","prompt":"' + tail + b'"}'), _FACTS)
def test_arbitrary_bytes_are_decided(sent: bytes, facts: ModelFacts | None) -> None:
    obj = read_object(sent)
    decision = decide(obj, facts)
    if decision.to_chat:
        assert obj is not None
        assert read_object(chat_body(obj, decision)) is not None
