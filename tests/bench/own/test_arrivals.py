from __future__ import annotations

import math

import pytest

from proxy.admission.priority import BATCH, INTERACTIVE, NORMAL, PRIORITIES
from proxy.admission.scheduler import Scheduler, Ticket
from proxy.bench.own.arrivals import Arrival, AsOllama, FirstCome, Mix, Policy, in_turn, mixed, simulate


def policies(parallel: int = 1, max_loaded: int = 1) -> list[Policy]:
    return [
        Scheduler(parallel, max_loaded, 1_000, 30.0),
        FirstCome(parallel, max_loaded),
        AsOllama(parallel, max_loaded),
    ]


@pytest.mark.parametrize("policy", policies(), ids=lambda policy: type(policy).__name__)
def test_a_request_waits_for_its_load_and_for_its_slot(policy: Policy) -> None:
    outcome = simulate(
        policy,
        [Arrival(1.0, "a", "x", NORMAL, 2.0), Arrival(1.5, "a", "y", NORMAL, 2.0)],
        max_loaded=1,
        load_s=10.0,
    )
    assert [(started.granted_s, started.began_s) for started in outcome.started] == [(1.0, 11.0), (13.0, 13.0)]
    assert outcome.started[1].wait_s == 11.5
    assert (outcome.load_at_s, outcome.ended_s) == ([1.0], 15.0)


@pytest.mark.parametrize("policy", policies(2, 2), ids=lambda policy: type(policy).__name__)
def test_every_policy_serves_everything_within_the_limits(policy: Policy) -> None:
    arrivals = mixed(Mix(count=2_000, span_s=100.0), 7)
    outcome = simulate(policy, arrivals, max_loaded=2, load_s=1.0)
    assert sorted(started.arrival.at_s for started in outcome.started) == [arrival.at_s for arrival in arrivals]
    assert (outcome.refused, outcome.unserved) == (0, [])


def test_first_come_keeps_the_order_of_arrival() -> None:
    six = in_turn("ababab", at_s=0.0, service_s=1.0, priority=BATCH)
    outcome = simulate(FirstCome(4, 1), six, max_loaded=1, load_s=5.0)
    assert [started.arrival for started in outcome.started] == six
    assert outcome.loads == 6


def test_as_ollama_lets_requests_for_the_loaded_model_pass() -> None:
    six = in_turn("ababab", at_s=0.0, service_s=1.0, priority=INTERACTIVE)
    outcome = simulate(AsOllama(1, 1), six, max_loaded=1, load_s=5.0)
    assert [started.arrival.weights for started in outcome.started] == list("aaabbb")
    assert outcome.loads == 2


def test_what_a_full_queue_refuses_is_counted() -> None:
    crowd = in_turn("aaaaa", at_s=0.0, service_s=1.0, priority=NORMAL)
    outcome = simulate(Scheduler(1, 1, 2, 30.0), crowd, max_loaded=1, load_s=0.0)
    assert (len(outcome.started), outcome.refused) == (3, 2)


def test_a_closed_loop_goes_on_until_it_returns_nothing() -> None:
    def closed(arrival: Arrival, now: float) -> Arrival | None:
        return Arrival(now, "a", "x", NORMAL, 1.0) if now < 5.0 else None

    first = Arrival(0.0, "a", "x", NORMAL, 1.0)
    outcome = simulate(FirstCome(1, 1), [first], max_loaded=1, load_s=0.0, then=closed)
    assert (len(outcome.started), outcome.ended_s) == (5, 5.0)


def test_a_policy_that_starts_what_cannot_run_fails() -> None:
    class Reckless(FirstCome):
        def grants(self, now: float) -> list[Ticket]:
            found, self._queue = list(self._queue), type(self._queue)()
            return found

    with pytest.raises(AssertionError, match="b cannot run beside"):
        simulate(Reckless(1, 1), in_turn("ab", at_s=0.0, service_s=1.0, priority=NORMAL), max_loaded=1, load_s=1.0)


def test_the_same_seed_gives_the_same_arrivals_with_the_shares_that_were_asked_for() -> None:
    mix = Mix(count=5_000, span_s=500.0)
    arrivals = mixed(mix, 3)
    assert arrivals == mixed(mix, 3)
    assert arrivals != mixed(mix, 4)
    assert [each.at_s for each in arrivals] == sorted(each.at_s for each in arrivals)
    for name, share in mix.models:
        assert math.isclose(sum(each.weights == name for each in arrivals) / len(arrivals), share, abs_tol=0.05)
    for priority in PRIORITIES:
        found = sum(each.priority is priority for each in arrivals) / len(arrivals)
        assert math.isclose(found, mix.priorities[priority], abs_tol=0.05)
