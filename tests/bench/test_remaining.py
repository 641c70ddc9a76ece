from __future__ import annotations

import pytest

from proxy.bench.remaining import Expected, Remaining


def test_nothing_is_said_before_anything_is_known_but_how_much_is_done() -> None:
    remaining = Remaining([Expected(4), Expected(4)], runs=1, seconds=None)
    assert remaining.left_s(3.0) is None
    assert remaining.share == 0
    remaining.end()
    assert remaining.share == 0.5


def test_at_first_what_calls_and_loads_took_tells_how_long_it_will_take() -> None:
    remaining = Remaining([Expected(10, 2, 5.0)], runs=2, seconds=None)
    # A cold first token of 3.5 s and a warm call of 0.5 s: a load takes 3 s.
    remaining.learn(3.5, 0.5)
    assert remaining.left_s(0.0) == 2 * (10 * 0.5 + 2 * 3.0 + 5.0)
    remaining.at(0.5)
    assert remaining.share == 0.25


def test_later_how_long_it_took_so_far_corrects_it() -> None:
    remaining = Remaining([Expected(10), Expected(10)], runs=1, seconds=None)
    remaining.learn(1.0, 1.0)
    remaining.end()
    assert remaining.left_s(30.0) == pytest.approx(30.0)
    remaining.end()
    assert (remaining.share, remaining.left_s(60.0)) == (1.0, 0.0)


def test_no_workload_is_expected_to_take_longer_than_its_limit() -> None:
    remaining = Remaining([Expected(100)], runs=2, seconds=20.0)
    remaining.learn(1.0, 1.0)
    assert remaining.left_s(0.0) == 20.0


def test_a_call_that_failed_teaches_nothing() -> None:
    remaining = Remaining([Expected(1)], runs=1, seconds=None)
    remaining.learn(None, None)
    assert remaining.left_s(1.0) is None


def test_two_sides_take_twice_as_long() -> None:
    assert Expected(3, 1, 0.5).times(2) == (6, 2, 1.0)
