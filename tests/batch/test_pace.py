from __future__ import annotations

import pytest

from proxy.batch.pace import Pace, spoken


def test_the_rate_follows_the_last_half_minute() -> None:
    pace = Pace(0.0)
    assert (pace.lines_per_s(), pace.left_s(100)) == (0.0, None)
    for second in range(1, 61):
        pace.on_done(second * 10, float(second))
    assert pace.lines_per_s() == pytest.approx(10)
    for second in range(61, 121):
        pace.on_done(600 + (second - 60), float(second))
    assert pace.lines_per_s() == pytest.approx(1)
    assert pace.left_s(50) == pytest.approx(50)


def test_a_pace_keeps_few_marks() -> None:
    pace = Pace(0.0)
    for tick in range(10_000):
        pace.on_done(tick, tick / 20)
    assert len(pace._marks) < 700


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.4, "0 s"), (42, "42 s"), (99, "99 s"), (150, "2 min"), (5400, "90 min"), (7500, "2 h 5 min")],
)
def test_durations_are_said_as_people_say_them(seconds: float, said: str) -> None:
    assert spoken(seconds) == said
