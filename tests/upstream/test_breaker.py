"""After failures in a row the upstream is left alone, and one at a time finds out whether it is back."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from proxy.upstream.breaker import CLOSED, HALF_OPEN, OPEN, Breaker, Verdict

PASS, PROBE, REFUSE = Verdict.PASS, Verdict.PROBE, Verdict.REFUSE


def opened(at: float = 0.0) -> tuple[Breaker, list[str]]:
    states: list[str] = []
    breaker = Breaker(failures=3, open_s=1.0, on_state=states.append)
    for _ in range(3):
        assert breaker.allow(at) is PASS
        breaker.on_failure(at, PASS)
    return breaker, states


def test_it_opens_after_failures_in_a_row() -> None:
    breaker, states = opened()
    assert (breaker.state, states) == (OPEN, ["open"])
    assert breaker.allow(0.999) is REFUSE
    assert breaker.retry_after_s(0.25) == 0.75


def test_its_usual_numbers_are_five_failures_and_a_second() -> None:
    breaker = Breaker()
    for _ in range(4):
        breaker.on_failure(0.0)
    assert breaker.state == CLOSED
    assert breaker.retry_after_s(0.0) == 0.0
    breaker.on_failure(0.0)
    assert repr(breaker) == "<Breaker open, 5 failures>"
    assert breaker.retry_after_s(0.0) == 1.0


def test_an_answer_between_failures_starts_the_count_anew() -> None:
    breaker = Breaker(failures=3)
    for _ in range(10):
        breaker.on_failure(0.0)
        breaker.on_failure(0.0)
        breaker.on_success(0.0)
    assert (breaker.state, breaker.failures) == (CLOSED, 0)


def test_one_at_a_time_is_let_through_once_it_was_open_for_long_enough() -> None:
    breaker, states = opened()
    assert [breaker.allow(1.0) for _ in range(3)] == [PROBE, REFUSE, REFUSE]
    assert breaker.allow(100.0) is REFUSE
    assert breaker.retry_after_s(1.0) == 1.0
    assert states == ["open", "half_open"]


def test_a_probe_that_is_answered_closes_it() -> None:
    breaker, states = opened()
    breaker.allow(1.0)
    breaker.on_success(1.0)
    assert [breaker.allow(1.0) for _ in range(2)] == [PASS, PASS]
    assert (breaker.failures, states) == (0, ["open", "half_open", "closed"])


def test_a_probe_that_fails_opens_it_for_as_long_again() -> None:
    breaker, states = opened()
    breaker.allow(1.5)
    breaker.on_failure(1.75)
    assert breaker.allow(2.7) is REFUSE
    assert breaker.allow(2.75) is PROBE
    assert states == ["open", "half_open", "open", "half_open"]


def test_a_probe_whose_client_left_gives_its_turn_back() -> None:
    breaker, states = opened()
    breaker.allow(1.0)
    breaker.on_probe_abandoned(1.0)
    assert breaker.retry_after_s(1.0) == 0.0
    assert [breaker.allow(1.0), breaker.allow(1.0)] == [PROBE, REFUSE]
    assert states == ["open", "half_open"]


def test_a_probes_connection_lets_others_through_before_its_answer() -> None:
    breaker, _ = opened()
    breaker.allow(1.0)
    breaker.on_connected(1.0)
    assert breaker.allow(1.0) is PASS
    breaker.on_failure(1.0, PASS)
    assert breaker.state == OPEN, "accepted and said nothing: one failure is enough"
    breaker.allow(2.0)
    breaker.on_connected(2.0)
    breaker.on_success(2.0)
    breaker.on_failure(2.0)
    assert (breaker.state, breaker.failures) == (CLOSED, 1)


def test_a_connection_while_it_is_closed_or_open_says_nothing() -> None:
    breaker, states = opened()
    breaker.on_connected(0.5)
    breaker.on_probe_abandoned(0.5)
    assert breaker.allow(0.5) is REFUSE
    assert states == ["open"]


def test_an_answer_to_anyone_closes_it() -> None:
    breaker, _ = opened()
    breaker.on_success(0.5)
    assert breaker.allow(0.5) is PASS


def test_those_that_passed_before_and_fail_late_do_not_keep_it_open() -> None:
    breaker, states = opened()
    breaker.on_failure(0.9, PASS)
    assert breaker.allow(1.0) is PROBE
    breaker.on_failure(1.1, PASS)
    assert (breaker.state, breaker.allow(1.1)) == (HALF_OPEN, REFUSE)
    breaker.on_success(1.2)
    assert states == ["open", "half_open", "closed"]


class Machine(RuleBasedStateMachine):
    """Any order of events: there is never a second probe, and never an end without a way out."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.breaker = Breaker(failures=3, open_s=1.0)
        self.out: list[Verdict] = []

    @rule(seconds=st.floats(0, 2))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def ask(self) -> None:
        verdict = self.breaker.allow(self.now)
        if verdict is not REFUSE:
            self.out.append(verdict)

    @precondition(lambda self: self.out)
    @rule(number=st.integers(0))
    def fail(self, number: int) -> None:
        self.breaker.on_failure(self.now, self.out.pop(number % len(self.out)))

    @precondition(lambda self: self.out)
    @rule(number=st.integers(0))
    def succeed(self, number: int) -> None:
        self.out.pop(number % len(self.out))
        self.breaker.on_success(self.now)
        # A probe that is still out was told so before; what it says from here on is an ordinary outcome.
        self.out = [PASS] * len(self.out)

    @precondition(lambda self: self.out)
    @rule(number=st.integers(0))
    def leave(self, number: int) -> None:
        if self.out.pop(number % len(self.out)) is PROBE:
            self.breaker.on_probe_abandoned(self.now)

    @invariant()
    def one_probe_at_most(self) -> None:
        assert self.out.count(PROBE) <= 1

    @invariant()
    def there_is_a_way_out(self) -> None:
        later = self.now + self.breaker.retry_after_s(self.now)
        assert later <= self.now + 1.0
        if PROBE not in self.out and self.breaker.state != CLOSED:
            assert self.breaker._open_until <= later


TestMachine = Machine.TestCase
