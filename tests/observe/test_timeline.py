from __future__ import annotations

from dataclasses import astuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.observe.timeline import Start, Timeline, is_cold, parts, server_timing, start, total_s, ttft_s
from proxy.wire.routes import Family

_DURATION = st.one_of(st.none(), st.floats(min_value=-1.0, max_value=1e6), st.sampled_from([0.0, 0.1, 1e-9, 3600.0]))
_MARK = st.one_of(st.none(), st.floats(min_value=0.0, max_value=1e7))


def timeline(**marks: object) -> Timeline:
    values = {"received": 100.0, **marks}
    return Timeline("id", "api_chat", Family.API, "/api/chat", "POST", **values)  # type: ignore[arg-type]


@given(
    received=st.floats(min_value=0.0, max_value=1e7),
    sent=_MARK,
    token_read=_MARK,
    first_token=st.floats(min_value=0.0, max_value=1e7),
    queue_s=st.floats(min_value=0.0, max_value=1e6),
    load_wait_s=st.floats(min_value=0.0, max_value=1e6),
    failed_s=st.floats(min_value=0.0, max_value=1e6),
    load_duration_s=_DURATION,
    prompt_eval_duration_s=_DURATION,
)
def test_parts_sum_to_the_whole_exactly_and_none_is_negative(**marks: object) -> None:
    t = timeline(**marks)

    split = parts(t)

    assert split is not None
    assert all(part >= 0 for part in astuple(split))
    assert split.queue + split.load + split.prompt + split.proxy + split.other == ttft_s(t)
    assert split.other + split.proxy + split.prompt + split.load + split.queue == ttft_s(t)


def test_each_part_has_the_time_that_is_its_own() -> None:
    t = timeline(
        sent=107.5,
        token_read=110.0,
        first_token=110.25,
        queue_s=2.0,
        load_wait_s=5.0,
        load_duration_s=0.25,
        prompt_eval_duration_s=1.0,
    )

    split = parts(t)

    assert split is not None
    assert split.queue == 2.0
    assert split.load == 5.25
    assert split.prompt == 1.0
    assert split.proxy == 0.75
    assert split.other == 1.25


def test_an_upstream_that_did_not_answer_is_not_our_own_work() -> None:
    split = parts(timeline(sent=103.0, first_token=104.0, queue_s=0.5, failed_s=2.25))

    assert split is not None
    assert (split.queue, split.proxy, split.other) == (0.5, 0.25, 3.25)


def test_without_a_final_record_the_unknown_is_in_other() -> None:
    split = parts(timeline(sent=100.5, first_token=104.0))

    assert split is not None
    assert (split.load, split.prompt, split.proxy, split.other) == (0.0, 0.0, 0.5, 3.5)


def test_durations_of_ollama_never_exceed_the_time_there_was() -> None:
    split = parts(timeline(sent=101.0, first_token=102.0, load_duration_s=30.0, prompt_eval_duration_s=30.0))

    assert split is not None
    assert (split.load, split.prompt, split.other) == (1.0, 0.0, 0.0)


def test_without_a_token_there_are_no_parts() -> None:
    t = timeline(sent=100.5, finished=101.0)

    assert parts(t) is None
    assert ttft_s(t) is None
    assert total_s(t) == 1.0


@pytest.mark.parametrize(
    ("marks", "expected"),
    [
        ({"load_duration_s": 0.002}, Start.WARM),
        ({"load_duration_s": 0.1}, Start.WARM),
        ({"load_duration_s": 0.11}, Start.COLD),
        ({"load_duration_s": 0.002, "load_wait_s": 2.0}, Start.COLD),
        ({"load_wait_s": 2.0}, Start.COLD),
        ({}, Start.UNKNOWN),
    ],
)
def test_a_start_is_cold_after_a_load_and_unknown_where_nothing_tells(marks: dict[str, float], expected: Start) -> None:
    t = timeline(**marks)

    assert start(t) is expected
    assert is_cold(t) is (expected is Start.COLD)


def test_server_timing_tells_what_is_known_when_the_head_is_sent() -> None:
    t = timeline(sent=100.004, upstream_head=100.1, queue_s=0.001, load_wait_s=0.002)

    assert server_timing(t) == b"queue;dur=1.000, load;dur=2.000, upstream;dur=96.000, proxy;dur=1.000"


def test_server_timing_of_an_assembled_reply_has_all_parts() -> None:
    t = timeline(sent=100.5, upstream_head=100.5, first_token=102.0, load_duration_s=0.25, prompt_eval_duration_s=1.0)

    assert server_timing(t) == (
        b"queue;dur=0.000, load;dur=250.000, prompt;dur=1000.000, proxy;dur=500.000, other;dur=250.000, "
        b"ttft;dur=2000.000"
    )


def test_server_timing_of_what_was_never_sent_is_empty() -> None:
    assert server_timing(timeline()) == b""
