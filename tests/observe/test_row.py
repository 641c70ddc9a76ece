from __future__ import annotations

import orjson
from hypothesis import given
from hypothesis import strategies as st

from proxy.observe.row import LONGEST_TEXT, describe, printable
from proxy.observe.timeline import Outcome, Phase, Timeline
from proxy.wire.routes import Family


def test_a_call_has_its_first_token_in_parts() -> None:
    t = Timeline("id", "api_chat", Family.API, "/api/chat", "POST", 100.0, model="llama3.2", sent=100.5, status=200)
    t.first_token, t.first_answer, t.finished = 102.0, 103.0, 104.0
    t.load_duration_s, t.prompt_eval_duration_s, t.eval_duration_s = 0.25, 0.5, 2.0
    t.prompt_eval_count, t.eval_count, t.done_reason, t.rule, t.chunks, t.injected = 11, 6, "stop", 9, 7, "keep_alive"

    assert describe(t) == {
        "request_id": "id",
        "method": "POST",
        "route": "/api/chat",
        "status": 200,
        "outcome": "ok",
        "endpoint": "api_chat",
        "model": "llama3.2",
        "stream": False,
        "start": "cold",
        "ttft_ms": 2000.0,
        "queue_ms": 0.0,
        "load_ms": 250.0,
        "prompt_ms": 500.0,
        "proxy_ms": 500.0,
        "other_ms": 750.0,
        "first_answer_ms": 3000.0,
        "tokens_in": 11,
        "tokens_out": 6,
        "tokens_per_s": 3.0,
        "done_reason": "stop",
        "chunks": 7,
        "rule": 9,
        "injected": "keep_alive",
        "total_ms": 4000.0,
        "bytes_in": 0,
        "bytes_out": 0,
    }


def test_a_call_without_a_token_says_what_it_waited_for() -> None:
    t = Timeline("id", "api_chat", Family.API, "/api/chat", "POST", 100.0, load_wait_s=2.0, status=499, trace_id="ab")
    t.outcome, t.client_disconnect_phase, t.error_code, t.incomplete = Outcome.CANCELLED, Phase.WAITING, "x", True

    row = describe(t)

    assert "ttft_ms" not in row
    assert row["load_ms"] == 2000.0
    assert (row["outcome"], row["client_left"], row["error"], row["incomplete"]) == ("cancelled", "waiting", "x", True)
    assert row["trace_id"] == "ab"


def test_the_answer_is_mentioned_apart_only_where_thinking_came_first() -> None:
    t = Timeline("id", "api_chat", Family.API, "/api/chat", "POST", 0.0, first_token=1.0, first_answer=1.000001)
    assert "first_answer_ms" not in describe(t)

    t.first_answer = 1.5

    assert describe(t)["first_answer_ms"] == 1500.0


def test_a_request_that_is_no_call_has_no_model() -> None:
    row = describe(Timeline("id", "", Family.API, "/api/tags", "GET", 1.0, finished=1.25, status=200))

    assert row == {
        "request_id": "id",
        "method": "GET",
        "route": "/api/tags",
        "status": 200,
        "outcome": "ok",
        "total_ms": 250.0,
        "bytes_in": 0,
        "bytes_out": 0,
    }


@given(text=st.text() | st.sampled_from(["\r\n", "\x1b[31m", "\ud800", "\udcff", "\u2028", "\x00", "é"]))
def test_text_of_callers_is_harmless_in_a_row(text: str) -> None:
    t = Timeline(text, "api_chat", Family.API, "/api/chat", text, 1.0, model=text, done_reason=text, trace_id=text)

    row = describe(t)

    orjson.dumps(row)
    assert all(value.isprintable() for value in row.values() if isinstance(value, str))
    assert len(printable(text * 1000)) <= LONGEST_TEXT * 10


def test_what_was_written_out_can_be_read() -> None:
    assert printable("a\r\n\x1b[31mb\u2028\ud800") == "a\\r\\n\\x1b[31mb\\u2028\\ud800"
    assert printable("llama3.2:3b") == "llama3.2:3b"
    assert printable("x" * 200) == "x" * 127 + "…"
