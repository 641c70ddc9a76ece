from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.bench.first_token import Measured
from proxy.bench.results import Parts, Sample
from proxy.bench.workloads.noting import BACKGROUND, WARM_UP, count_loads, failed_sample, parts_of, sample_of

MS = 1_000_000


def call(
    record: dict[str, Any] | None = None, timing: dict[str, float] | None = None, first_s: float = 1.0
) -> Measured:
    return Measured(first_s, first_s + 0.5, (first_s, first_s + 0.1), record or {}, timing or {})


def test_parts_are_those_of_the_final_record_and_of_server_timing() -> None:
    record = {"load_duration": 300 * MS, "prompt_eval_duration": 200 * MS}
    direct = parts_of(call(record))
    assert direct is not None
    assert (direct.queue_s, direct.load_s, direct.prompt_s, direct.proxy_s) == (None, 0.3, 0.2, None)
    assert direct.other_s == pytest.approx(0.5)
    via = parts_of(call(record, {"queue": 0.1, "load": 0.2, "upstream": 0.3, "proxy": 0.001}))
    assert via is not None
    # The proxy's wait for a load, and then what Ollama says of it.
    assert (via.queue_s, via.load_s, via.prompt_s, via.proxy_s) == (0.1, 0.5, 0.2, 0.001)
    assert via.other_s == pytest.approx(0.199)


def test_where_nothing_tells_there_are_no_parts() -> None:
    assert parts_of(call()) is None
    # Somebody else's Server-Timing says nothing about ours.
    assert parts_of(call({}, {"cdn-cache": 0.1})) is None


@given(*[st.floats(min_value=-1, max_value=5)] * 4, st.floats(min_value=0.001, max_value=5))
def test_no_part_is_negative_and_they_sum_to_the_first_token(
    queue_s: float, load_s: float, prompt_s: float, proxy_s: float, first_s: float
) -> None:
    record = {"load_duration": load_s * 1e9, "prompt_eval_duration": prompt_s * 1e9}
    parts = parts_of(call(record, {"queue": queue_s, "proxy": proxy_s}, first_s))
    assert parts is not None
    values = list(dataclasses.asdict(parts).values())
    assert all(value >= 0 for value in values)
    assert sum(values) == pytest.approx(first_s)


def test_a_sample_has_ollamas_counts_or_those_of_the_frames() -> None:
    told = {"load_duration": 200 * MS, "eval_count": 7, "prompt_eval_count": 30}
    sample = sample_of(call(told), run=2, call=3, t_start_s=4.0)
    assert (sample.run, sample.call, sample.t_start_s, sample.tokens, sample.prompt_tokens) == (2, 3, 4.0, 7, 30)
    assert sample.cold
    plain = sample_of(call(), run=1, call=1, t_start_s=0.0)
    assert (plain.tokens, plain.prompt_tokens, plain.cold) == (2, None, False)


def test_a_resident_model_is_no_cold_one() -> None:
    assert not sample_of(call({"load_duration": 3 * MS}), run=1, call=1, t_start_s=0.0).cold


def test_a_failed_call_has_no_times() -> None:
    failed = failed_sample("it broke", run=1, call=2, t_start_s=3.0)
    assert (failed.error, failed.ttft_s, failed.total_s, failed.tokens) == ("it broke", None, None, 0)


def cold(start_s: float, load_s: float, *, queue_s: float | None = None, excluded: str = "") -> Sample:
    made = sample_of(call({"load_duration": 1}), run=1, call=1, t_start_s=start_s, excluded=excluded)
    return dataclasses.replace(made, cold=True, parts=Parts(queue_s=queue_s, load_s=load_s))


def test_calls_that_wait_for_the_same_load_tell_of_one_load() -> None:
    assert count_loads([]) == 0
    assert count_loads([cold(0.0, 1.0), cold(0.2, 0.8), cold(0.9, 0.101)]) == 1
    assert count_loads([cold(0.0, 1.0), cold(1.5, 1.0)]) == 2
    # A wait in the proxy's queue comes before the load.
    assert count_loads([cold(0.0, 1.0), cold(0.0, 0.5, queue_s=0.5)]) == 1


def test_loads_of_preparation_do_not_count_and_those_of_the_background_do() -> None:
    assert count_loads([cold(0.0, 1.0, excluded=WARM_UP)]) == 0
    assert count_loads([cold(0.0, 1.0, excluded=BACKGROUND)]) == 1
    assert count_loads([dataclasses.replace(cold(0.0, 1.0), cold=False)]) == 0
