from __future__ import annotations

import pytest

from tests.deploy.series import Reading


@pytest.mark.parametrize(
    ("expr", "wrong"),
    [
        ('sum(rate(llm_call_total{model="a"}[1m]))', "no series llm_call_total"),
        ('llm_calls_total{model_name="a"}', "llm_calls_total has no label model_name"),
        ('llm_calls_total{status=~"ok|failed"}', "status is never ok|failed"),
        ('sum by (endpoint) (llm_tokens_total{type="input"})', "there is no endpoint to sum by"),
        ("sum by (le) (rate(llm_request_tokens_count[1m]))", "there is no le to sum by"),
        ("sum by (model) (llm_calls_total) / on (model) sum(llm_calls_total)", "not both sides have model"),
    ],
)
def test_what_nobody_has_is_found(expr: str, wrong: str) -> None:
    assert Reading(expr).wrong == [wrong]


@pytest.mark.parametrize(
    ("expr", "left"),
    [
        ("histogram_quantile(0.5, sum by (model, le) (rate(llm_call_duration_seconds_bucket[1m])))", {"model"}),
        ("1 / (sum by (part) (llm_time_to_first_token_part_seconds_sum) > 0)", {"part"}),
        ("sum(llm_calls_total) or vector(0)", set()),
        ("time() - max(process_start_time_seconds)", set()),
        ("pilotlight_upstream_up", {"job", "instance"}),
    ],
)
def test_the_labels_of_a_result_are_known(expr: str, left: set[str]) -> None:
    reading = Reading(expr)
    assert (reading.labels, reading.wrong) == (left, [])
