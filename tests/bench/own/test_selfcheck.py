from __future__ import annotations

import pytest

from proxy.bench.own import selfcheck
from proxy.bench.own.selfcheck import Row, Speeds, describe, implied_s, models, rows_of
from proxy.bench.workloads.kinds import AHEAD_S, WORKLOADS
from proxy.simulator import build_profile
from tests.bench import runs
from tests.bench.workloads.scenes import plan

# A first token takes 0.2 s, a whole answer of two tokens 0.3 s.
SPEEDS = Speeds(load_s=2.0, prompt_tokens_per_s=100.0, tokens_per_s=10.0)
PLAN = plan(calls=10, concurrency=3, num_predict=2, background_factor=4, background_calls=5)


@pytest.mark.parametrize(
    ("name", "direct_s", "via_s"),
    [
        ("warm", 0.4, 0.2),
        ("idle", 2.2, 0.2),
        ("mixed-options", 2.2, 0.2),
        ("openai", 2.2, 0.2),
        # A batch call takes 0.9 s.
        ("flood", 2.7, 0.9),
        ("swap", 15.5, 2.9),
        ("shared-load", 1.1 + 2.0 + 0.3 + 0.2, 2.0 - AHEAD_S + 0.3 + 0.2),
        ("long-system", 0.2 + 3.0 / 3, 0.2),
    ],
)
def test_what_the_settings_imply(name: str, direct_s: float, via_s: float) -> None:
    assert implied_s(name, SPEEDS, PLAN, prompt=10, system=300) == pytest.approx((direct_s, via_s))


def test_every_workload_has_something_that_is_implied() -> None:
    for name in WORKLOADS:
        direct_s, via_s = implied_s(name, SPEEDS, PLAN, prompt=10, system=300)
        assert direct_s > via_s > 0


def test_the_lengths_of_the_prompts_are_those_that_were_told() -> None:
    samples = [runs.sample(9.0, call=0, prompt_tokens=10, excluded="warm-up")]
    samples += [runs.sample(1.2, call=call, prompt_tokens=310) for call in (1, 2, 3)]
    direct = runs.statistics.side(samples, 0)
    via = runs.statistics.side([runs.sample(0.2, call=call) for call in (1, 2, 3)], 0)
    (row,) = rows_of(runs.run([runs.workload("long-system", direct, via)]), SPEEDS, PLAN)
    assert (row.name, row.implied, row.measured) == ("long-system", pytest.approx(6.0), pytest.approx(6.0))
    assert row.passed


@pytest.mark.parametrize(("measured", "passed"), [(9.1, True), (10.9, True), (8.9, False), (11.2, False)])
def test_a_tenth_is_allowed(measured: float, passed: bool) -> None:
    assert Row("idle", 10.0, measured).passed is passed


def test_the_table_says_what_is_off_and_that_it_is_a_simulation() -> None:
    text = describe([Row("idle", 10.0, 12.0)], {"idle": (1.2, 0.1)})
    assert "+20.0%  MISS" in text
    assert "simulated" in text


def test_the_simulated_servers_can_be_made() -> None:
    made = build_profile(models(SPEEDS))
    assert made.machine.max_loaded == 1


def test_a_run_has_to_have_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["selfcheck", "--runs", "0"])
    with pytest.raises(SystemExit):
        selfcheck.main()
    assert "--runs must be at least 1" in capsys.readouterr().err
