from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.batch.line import FIELDS, PATHS, Asked, BrokenLine, Defaults, compose, digest, parse

DEFAULTS = Defaults(model="tiny", system="Be brief.", options={"num_predict": 5, "temperature": 0})


def asked(value: object, defaults: Defaults = DEFAULTS) -> Asked:
    return parse(json.dumps(value).encode(), defaults)


def body(value: object, defaults: Defaults = DEFAULTS) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(asked(value, defaults).body)
    return made


def test_a_string_is_a_prompt_and_gets_the_defaults() -> None:
    assert (
        body("hi")
        == body({"prompt": "hi"})
        == {
            "prompt": "hi",
            "model": "tiny",
            "system": "Be brief.",
            "options": {"num_predict": 5, "temperature": 0},
            "stream": False,
        }
    )


def test_what_a_line_says_wins_over_the_defaults_options_name_by_name() -> None:
    made = body({"prompt": "hi", "model": "big", "system": "", "options": {"temperature": 1}})
    assert (made["model"], made["system"]) == ("big", "")
    assert made["options"] == {"num_predict": 5, "temperature": 1}


def test_what_a_line_says_with_null_it_does_not_say() -> None:
    made = asked({"prompt": "hi", "messages": None, "model": None, "options": None})
    assert (made.kind, made.model, made.names_model) == ("prompt", "tiny", False)


def test_the_system_text_of_a_chat_becomes_its_first_message_unless_it_has_one() -> None:
    user, own = {"role": "user", "content": "hi"}, {"role": "system", "content": "Own."}
    assert body({"messages": [user]})["messages"] == [{"role": "system", "content": "Be brief."}, user]
    assert body({"messages": [own, user]})["messages"] == [own, user]
    made = body({"messages": [user], "system": "Of the line."})
    assert made["messages"][0]["content"] == "Of the line."
    assert "system" not in made


def test_a_raw_prompt_gets_no_system_text() -> None:
    assert "system" not in body({"prompt": "hi", "raw": True})


def test_texts_to_embed_get_no_system_text_and_one_text_is_told_from_a_list() -> None:
    assert "system" not in body({"input": "hi"})
    assert [asked({"input": given}).is_single for given in ("hi", ["hi"], [])] == [True, False, False]


def test_id_and_meta_are_carried_and_not_sent() -> None:
    made = asked({"prompt": "hi", "id": 7, "meta": {"a": None}})
    assert made.carried == {"id": 7, "meta": {"a": None}}
    assert not {"id", "meta"} & set(json.loads(made.body))


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"{", "not JSON: "),
        (b'{"prompt": "\xff"}', "not JSON: "),
        (b"[1]", "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b"{}", "needs exactly one of prompt, messages and input"),
        (b'{"prompt": "a", "input": "b"}', "has prompt and input"),
        (b'{"prompt": 1}', "prompt: must be text"),
        (b'{"messages": "a"}', "messages: must be a list"),
        (b'{"input": {}}', "input: must be text"),
        (b'""', "prompt: is empty"),
        (b'{"messages": []}', "messages: is empty"),
        (b'{"prompt": "a", "modle": "b"}', "modle: unknown in a line with prompt; did you mean model?"),
        (b'{"prompt": "a", "temprature": 1}', "temprature: unknown in a line with prompt; did you mean options"),
        (b'{"prompt": "a", "num_predict": 1}', "did you mean options.num_predict?"),
        (b'{"prompt": "a", "category": "b"}', "category: unknown in a line with prompt; what is only to be carried"),
        (b'{"prompt": "a", "tools": []}', "tools: unknown in a line with prompt"),
        (b'{"input": "a", "system": "b"}', "system: unknown in a line with input"),
        (b'{"prompt": "a", "stream": true}', "stream: is not for a line to say"),
        (b'{"prompt": "a", "model": 1}', "model: no name"),
        (b'{"prompt": "a", "options": []}', "options: must be an object"),
    ],
)
def test_a_broken_line_says_what_is_wrong_with_it(raw: bytes, said: str) -> None:
    with pytest.raises(BrokenLine) as caught:
        parse(raw, DEFAULTS)
    assert said in str(caught.value)


def test_a_line_without_a_model_needs_one_for_all() -> None:
    with pytest.raises(BrokenLine, match="model: no name; give one in the line or with --model"):
        parse(b'"hi"', Defaults())


def test_what_a_program_gives_and_json_has_not_is_a_broken_line() -> None:
    with pytest.raises(BrokenLine, match="cannot be written as JSON"):
        compose({"prompt": "a", "options": {"x": object()}}, DEFAULTS)


@pytest.mark.parametrize("kind", list(PATHS))
def test_every_field_of_a_kind_is_taken(kind: str) -> None:
    value: dict[str, Any] = {name: {} for name in FIELDS[kind]}
    value |= {kind: ["a"] if kind == "messages" else "a", "model": "m"}
    if "system" in value:
        value["system"] = "s"
    sent = set(body(value, Defaults())) - {"stream"}
    assert sent == set(value) - {"id", "meta"} - ({"system"} if kind == "messages" else set())


@given(st.binary(max_size=40), st.sampled_from([b"", b" ", b"\r", b"\t "]))
def test_the_digest_does_not_see_what_surrounds_a_line_and_sees_the_defaults(raw: bytes, around: bytes) -> None:
    salt = DEFAULTS.encode()
    known_by = digest(raw, salt)
    assert digest(around + raw + around, salt) == known_by
    assert digest(raw, Defaults(model="other").encode()) != known_by
    assert digest(raw + b"x", salt) != known_by
    assert len(known_by) == 16


@given(st.binary(max_size=80))
def test_any_bytes_are_a_request_or_a_broken_line(raw: bytes) -> None:
    with contextlib.suppress(BrokenLine):
        assert json.loads(parse(raw, DEFAULTS).body)["stream"] is False
