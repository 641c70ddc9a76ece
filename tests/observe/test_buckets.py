from __future__ import annotations

from proxy.observe import buckets


def test_bounds_rise() -> None:
    for bounds in (buckets.TTFT_S, buckets.CHUNK_S, buckets.CALL_S, buckets.LOAD_S, buckets.OVERHEAD_S, buckets.TOKENS):
        assert list(bounds) == sorted(set(bounds))


def test_the_goals_for_the_first_token_are_bounds() -> None:
    assert {0.5, 2} <= set(buckets.TTFT_S)
