from __future__ import annotations

from proxy.observe import buckets


def test_bounds_rise() -> None:
    every = [bounds for name, bounds in vars(buckets).items() if name.isupper()]

    assert len(every) == 7
    for bounds in every:
        assert list(bounds) == sorted(set(bounds))


def test_the_goals_for_the_first_token_are_bounds() -> None:
    assert {0.5, 2} <= set(buckets.TTFT_S)
