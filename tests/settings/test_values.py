from __future__ import annotations

import pytest

from proxy.settings.values import burst_of


@pytest.mark.parametrize(
    ("rate_per_s", "burst", "at_once"), [(5.0, 0, 10), (5.0, 3, 3), (0.1, 0, 1), (0.0, 0, 1), (1.3, 0, 3)]
)
def test_a_burst_that_is_not_set_is_two_seconds_worth_and_at_least_one(
    rate_per_s: float, burst: int, at_once: int
) -> None:
    assert burst_of(rate_per_s, burst) == at_once
