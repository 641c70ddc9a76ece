from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.batch.answer import Reply, read
from proxy.batch.attempts import Failure, Kind
from proxy.batch.line import Asked, Defaults, compose

DEFAULTS = Defaults(model="tiny")
PROMPT = compose("hi", DEFAULTS)
CHAT = compose({"messages": [{"role": "user", "content": "hi"}]}, DEFAULTS)
TEXT = compose({"input": "hi"}, DEFAULTS)
LIST = compose({"input": ["hi", "you"]}, DEFAULTS)
END = {"done": True, "done_reason": "stop", "eval_count": 2, "created_at": "2026-11-21T04:44:25Z"}


def answered(asked: Asked, status: int = 200, code: str = "", **body: Any) -> dict[str, Any] | Failure:
    return read(Reply(status, json.dumps(body).encode(), code, 3.0), asked)


def kind(asked: Asked, status: int, code: str = "", **body: Any) -> Kind:
    came = answered(asked, status, code, **body)
    assert isinstance(came, Failure)
    assert came.status == status
    return came.kind


def test_what_was_made_comes_first_and_what_is_said_about_it_keeps_ollamas_names() -> None:
    made = answered(PROMPT, model="tiny", response="Yes.", thinking="Hm.", context=[1, 2], **END)
    assert isinstance(made, dict)
    assert list(made) == ["text", "model", "thinking", "done_reason", "eval_count"]
    assert made["text"] == "Yes."


def test_a_chat_gives_its_message_whole() -> None:
    message = {"role": "assistant", "content": "", "thinking": "Hm.", "tool_calls": [{"function": {"name": "f"}}]}
    made = answered(CHAT, model="tiny", message=message, **END)
    assert isinstance(made, dict)
    assert made["message"] == message


def test_one_text_gives_one_embedding_and_a_list_gives_a_list() -> None:
    one = answered(TEXT, model="e", embeddings=[[1.0, 2.0]], prompt_eval_count=1)
    many = answered(LIST, model="e", embeddings=[[1.0], [2.0]])
    assert one == {"embedding": [1.0, 2.0], "model": "e", "prompt_eval_count": 1}
    assert many == {"embeddings": [[1.0], [2.0]], "model": "e"}


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (400, "", Kind.REFUSED),
        (401, "unauthorized", Kind.DENIED),
        (403, "forbidden", Kind.FORBIDDEN),
        (403, "origin_refused", Kind.DENIED),
        (404, "", Kind.NO_MODEL),
        (408, "request_timeout", Kind.FAILED),
        (413, "body_too_large", Kind.REFUSED),
        (421, "misdirected_host", Kind.DENIED),
        (429, "rate_limited", Kind.BUSY),
        (500, "", Kind.FAILED),
        (502, "upstream_broken", Kind.FAILED),
        (502, "upstream_unreachable", Kind.AWAY),
        (503, "overloaded", Kind.BUSY),
        (504, "upstream_timeout", Kind.FAILED),
        (508, "loop", Kind.DENIED),
    ],
)
def test_every_status_has_its_meaning(status: int, code: str, expected: Kind) -> None:
    assert kind(PROMPT, status, code, error="text") is expected


@pytest.mark.parametrize(
    ("status", "expected"),
    [(404, Kind.STRANGE), (403, Kind.STRANGE), (502, Kind.FAILED), (503, Kind.BUSY), (413, Kind.REFUSED)],
)
def test_a_status_without_ollamas_error_text_is_another_programs(status: int, expected: Kind) -> None:
    came = read(Reply(status, b"<html>"), PROMPT)
    assert isinstance(came, Failure)
    assert came.kind is expected


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"message": {}}', b'{"response": null, "done": true}'])
def test_an_answer_that_is_not_ollamas_is_strange(body: bytes) -> None:
    came = read(Reply(200, body), PROMPT)
    assert isinstance(came, Failure)
    assert came.kind is Kind.STRANGE


def test_an_answer_that_is_not_complete_is_cut_and_an_error_under_200_an_error() -> None:
    assert kind(PROMPT, 200, response="Ye", done=False) is Kind.CUT
    assert kind(PROMPT, 200, error="the runner died") is Kind.FAILED
    assert kind(TEXT, 200, embeddings=[]) is Kind.STRANGE


def test_a_failure_carries_the_servers_text_cut_to_a_line_and_its_wish() -> None:
    came = answered(PROMPT, 500, error="x" * 1000)
    assert isinstance(came, Failure)
    assert len(came.message) == 300
    assert came.retry_after_s == 3.0
