from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.upstream.budget import RetryBudget


@pytest.mark.parametrize(("in_flight", "most"), [(0, 1), (1, 1), (19, 1), (20, 2), (59, 5), (1000, 100)])
def test_a_tenth_of_what_is_in_flight_may_repeat_and_one_always(in_flight: int, most: int) -> None:
    budget = RetryBudget()
    for _ in range(most):
        assert budget.may_retry(in_flight)
        budget.on_retry_start()
    assert not budget.may_retry(in_flight)
    budget.on_retry_end()
    assert budget.may_retry(in_flight)
    assert repr(budget) == f"<RetryBudget {most - 1} running>"


def test_share_and_least_can_be_set() -> None:
    assert not RetryBudget(share=0.5, least=0).may_retry(1)
    assert RetryBudget(share=0.5, least=0).may_retry(2)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 300))))
def test_repetitions_never_exceed_the_share(events: list[tuple[bool, int]]) -> None:
    budget = RetryBudget()
    for starts, in_flight in events:
        if starts and budget.may_retry(in_flight):
            budget.on_retry_start()
            assert budget.running <= max(1, in_flight / 10)
        elif not starts and budget.running:
            budget.on_retry_end()
    assert budget.running >= 0
