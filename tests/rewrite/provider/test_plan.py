"""Which calls a provider is asked for, where, and what comes back of them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.rewrite import context
from proxy.rewrite.provider.plan import PATHS, Plan, plan
from proxy.wire.gojson import read_object
from proxy.wire.routes import classify, table

USER = [{"role": "user", "content": "hi"}]
OWN = json.loads(context.encode('[{"role":"user","content":"hi"},{"role":"assistant","content":"ho"}]'))


def planned(path: str, body: dict[str, Any] | bytes, *, own_context: bool = True) -> Plan | None:
    obj = read_object(body if isinstance(body, bytes) else json.dumps({"model": "ours", **body}).encode())
    assert obj is not None
    return plan(classify("POST", path), obj, "theirs", own_context=own_context, stamp=lambda: "now")


@pytest.mark.parametrize(
    ("path", "body", "there", "streams"),
    [
        ("/api/chat", {"messages": USER}, "/chat/completions", True),
        ("/api/chat", {"messages": USER, "stream": False}, "/chat/completions", False),
        ("/api/generate", {"prompt": "hi"}, "/chat/completions", True),
        ("/api/embed", {"input": "hi"}, "/embeddings", False),
        ("/v1/chat/completions", {"messages": USER}, "/chat/completions", False),
        ("/v1/chat/completions", {"messages": USER, "stream": True}, "/chat/completions", True),
        ("/v1/completions", {"prompt": "hi", "stream": True}, "/completions", True),
        ("/v1/embeddings", {"input": [[1, 2]], "stream": True}, "/embeddings", False),
    ],
)
def test_each_call_has_its_counterpart(path: str, body: dict[str, Any], there: str, streams: bool) -> None:
    found = planned(path, body)
    assert found is not None
    assert (found.path, found.streams) == (there, streams)
    assert json.loads(found.body)["model"] == "theirs"


def test_every_other_call_to_a_model_has_none() -> None:
    for method, path in table():
        if path not in PATHS and classify(method, path).is_inference:
            assert planned(path, {"messages": USER, "input": "hi", "prompt": "hi"}) is None


def test_a_v1_call_goes_as_it_came_but_for_the_name() -> None:
    found = planned("/v1/chat/completions", b'{ "model" : "ours", "n":1.0, "unknown": [ ] }')
    assert found is not None
    assert found.body == b'{ "model" : "theirs", "n":1.0, "unknown": [ ] }'
    assert found.translation.whole(b'{"model":"theirs"}') == b'{"model":"ours"}'


def test_a_generate_is_said_as_the_chat_that_it_is() -> None:
    found = planned("/api/generate", {"prompt": "\ud800hi", "system": "be brief", "options": {"seed": 1}})
    assert found is not None
    assert json.loads(found.body)["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "\ufffdhi"},
    ]


def test_a_conversation_that_was_begun_as_chat_goes_on() -> None:
    found = planned("/api/generate", {"prompt": "more", "context": OWN, "stream": False})
    assert found is not None
    assert [message["content"] for message in json.loads(found.body)["messages"]] == ["hi", "ho", "more"]
    answer = {"choices": [{"message": {"content": "so"}, "finish_reason": "stop"}]}
    body = json.loads(found.translation.whole(json.dumps(answer).encode()))
    said = json.loads(context.classify(body["context"]).messages)
    assert [message["content"] for message in said] == ["hi", "ho", "more", "so"]


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": "hi", "raw": True},
        {"prompt": "hi", "suffix": "x"},
        {"prompt": "hi", "template": "{{ .Prompt }}"},
        {"prompt": "hi", "context": [1, 2, 3000]},
        {"prompt": "hi", "context": [*OWN[:-1], 0]},
        {"prompt": "hi", "width": 512},
        {"prompt": "hi", "unknown": 1},
        {"prompt": "hi", "_debug_render_only": True},
        {"prompt": ""},
        {"prompt": 1},
        {},
    ],
)
def test_a_generate_that_is_no_chat_is_not_said_as_one(body: dict[str, Any]) -> None:
    assert planned("/api/generate", body) is None


def test_no_context_of_ours_is_begun_where_none_is_wanted() -> None:
    assert planned("/api/generate", {"prompt": "hi"}, own_context=False) is None


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/chat", {"messages": []}),
        ("/api/chat", {"messages": USER, "options": {"top_k": 1}}),
        ("/api/embed", {"input": ""}),
        ("/v1/chat/completions", b'{"model":"ours","MODEL":"other"}'),
    ],
)
def test_what_cannot_be_said_or_has_two_readings_is_asked_of_no_provider(path: str, body: Any) -> None:
    assert planned(path, body) is None
