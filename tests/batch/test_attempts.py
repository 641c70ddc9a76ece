from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.batch.attempts import Again, Fail, Failure, Kind, Patience, Stop, Tries

PATIENCE = Patience(retries=2, timeout_s=100.0, away_s=30.0)


def tries(*, names_model: bool = False, patience: Patience = PATIENCE) -> Tries:
    return Tries(patience, 0.0, names_model=names_model)


def after(
    kind: Kind, line: Tries, now: float = 0.0, *, has_answered: bool = True, retry_after_s: float = 0.0
) -> object:
    return line.after(Failure(kind, "text", None, retry_after_s), now, 0.5, has_answered=has_answered)


@pytest.mark.parametrize("kind", [Kind.CUT, Kind.FAILED, Kind.STRANGE])
def test_a_servers_error_is_tried_again_so_many_times_with_longer_pauses(kind: Kind) -> None:
    line = tries()
    first, second = after(kind, line), after(kind, line)
    assert isinstance(first, Again)
    assert isinstance(second, Again)
    assert first.pause_s < second.pause_s
    assert after(kind, line) == Fail()
    assert line.count == 3


@pytest.mark.parametrize("kind", [Kind.REFUSED, Kind.LATE])
def test_what_is_the_lines_own_fault_is_not_tried_again(kind: Kind) -> None:
    assert after(kind, tries(), has_answered=False) == Fail()


@pytest.mark.parametrize("kind", [Kind.NO_MODEL, Kind.FORBIDDEN])
def test_a_model_for_all_lines_that_cannot_be_had_ends_the_run_and_one_lines_own_is_its_error(kind: Kind) -> None:
    assert after(kind, tries()) == Stop("text")
    assert after(kind, tries(names_model=True)) == Fail()


def test_a_caller_who_is_not_taken_ends_the_run() -> None:
    assert after(Kind.DENIED, tries(names_model=True)) == Stop("text")


def test_a_server_that_never_answered_ends_the_run_at_once() -> None:
    assert after(Kind.AWAY, tries(), has_answered=False) == Stop("text")
    assert after(Kind.STRANGE, tries(), has_answered=False) == Stop("text")


def test_a_server_that_went_away_is_waited_for_without_using_up_repetitions() -> None:
    line = tries()
    now = 0.0
    while isinstance(step := after(Kind.AWAY, line, now), Again):
        now += step.pause_s
    assert step == Stop("text")
    assert 30.0 <= now < 60.0
    assert line.count > PATIENCE.retries + 1


def test_time_away_begins_anew_after_an_answer() -> None:
    line = tries()
    after(Kind.AWAY, line, 0.0)
    after(Kind.BUSY, line, 29.0)
    assert isinstance(after(Kind.AWAY, line, 31.0), Again)


def test_a_busy_server_is_asked_until_the_lines_time_is_over_and_as_late_as_it_says() -> None:
    line = tries()
    first = after(Kind.BUSY, line, retry_after_s=40.0)
    assert first == Again(40.0)
    assert after(Kind.BUSY, line, 40.0, retry_after_s=40.0) == Again(40.0)
    assert after(Kind.BUSY, line, 80.0, retry_after_s=40.0) == Fail()


def test_an_unreachable_server_makes_no_errors_when_a_lines_time_is_over() -> None:
    assert after(Kind.AWAY, tries(), 99.9) == Stop("text")


@given(
    st.lists(st.tuples(st.sampled_from(Kind), st.floats(0, 1), st.floats(0, 50)), max_size=30), st.floats(1.0, 500.0)
)
def test_every_line_comes_to_an_end_within_its_time(steps: list[tuple[Kind, float, float]], timeout_s: float) -> None:
    line = tries(patience=Patience(retries=3, timeout_s=timeout_s, away_s=20.0))
    now = 0.0
    for kind, jitter, retry_after_s in steps:
        step = line.after(Failure(kind, "x", None, retry_after_s), now, jitter, has_answered=True)
        if not isinstance(step, Again):
            return
        assert step.pause_s > 0
        now += step.pause_s
        assert now < timeout_s


def test_without_a_limit_no_time_is_left_to_speak_of() -> None:
    line = tries(patience=Patience(timeout_s=0))
    assert line.left_s(1e9) is None
    assert isinstance(after(Kind.BUSY, line, 1e9, retry_after_s=1e6), Again)
