from __future__ import annotations

import json

import pytest

from proxy.rewrite.facts import ModelFacts
from proxy.rewrite.generate import chat_body, decide
from proxy.rewrite.probe import probe_bodies, same_render
from proxy.wire.gojson import read_object


def reply(text: object, **more: object) -> bytes:
    return json.dumps({"model": "m", "done": False, "_debug_info": {"rendered_template": text, **more}}).encode()


def test_the_chat_asked_is_the_one_a_rewriting_would_ask() -> None:
    generate, chat = probe_bodies("m", {"num_ctx": 64}, -1)
    asked = json.loads(generate)
    assert asked["_debug_render_only"] is True
    assert (asked["options"], asked["keep_alive"], asked["stream"]) == ({"num_ctx": 64, "num_predict": 1}, -1, False)
    obj = read_object(json.dumps({**asked, "_debug_render_only": False}).encode())
    assert obj is not None
    facts = ModelFacts("m", "", "w", frozenset({"completion"}), same_render=True)
    expected = json.loads(chat_body(obj, decide(obj, facts), {"_debug_render_only": "true"}))
    assert json.loads(chat) == expected


def test_without_options_of_the_model_none_of_the_runner_are_sent() -> None:
    assert json.loads(probe_bodies("m")[0])["options"] == {"num_predict": 1}
    assert "keep_alive" not in json.loads(probe_bodies("m")[0])


def test_only_two_equal_prompts_are_the_same() -> None:
    assert same_render(reply("a"), reply("a"))
    assert same_render(reply("a", image_count=0), reply("a"))
    assert not same_render(reply("a"), reply("b"))
    assert not same_render(reply("a", image_count=1), reply("a"))


@pytest.mark.parametrize("other", [b"", b"{}", b'{"_debug_info":1}', reply(None), reply(1), b'{"error":"x"}'])
def test_anything_else_is_not_the_same(other: bytes) -> None:
    assert not same_render(other, other)
    assert not same_render(reply("a"), other)
