from __future__ import annotations

import dataclasses

import pytest

from proxy.bench import statistics
from proxy.bench.results import ModelInfo, Side
from proxy.bench.targets import FailOn, failures, targets_of
from tests.bench import runs

WHOLE = ModelInfo(name="m", memory_bytes=100, vram_bytes=100)


def side(*ttft_s: float, loads: int | None = 0) -> Side:
    return statistics.side([runs.sample(value, call=number) for number, value in enumerate(ttft_s, 1)], loads)


def verdicts(name: str, measured: Side, model: ModelInfo | None = WHOLE) -> dict[str, str]:
    return {each.what: each.verdict for each in targets_of(name, measured, model, {})}


def test_warm_is_judged_by_the_limits_of_the_guides() -> None:
    good = verdicts("warm", side(*[0.4] * 50))
    assert set(good.values()) == {"pass"}
    assert len(good) == 6
    slow = verdicts("warm", side(2.1, *[0.8] * 50))
    assert [what for what, verdict in slow.items() if verdict == "fail"] == [
        "first call",
        "later calls (mean)",
        "p50",
        "p95",
    ]
    assert verdicts("warm", side(2.1, *[0.1] * 5))["variance"] == "fail"


def test_the_slowest_of_the_first_calls_counts() -> None:
    samples = [runs.sample(value, call=1, run=number) for number, value in enumerate((0.1, 2.5), 1)]
    (first,) = [t for t in targets_of("warm", statistics.side(samples, 0), WHOLE, {}) if t.what == "first call"]
    assert (first.value, first.verdict) == (2500, "fail")


@pytest.mark.parametrize(
    ("model", "verdict"),
    [
        (WHOLE, "pass"),
        (dataclasses.replace(WHOLE, vram_bytes=99), "fail"),
        (dataclasses.replace(WHOLE, vram_bytes=0), "fail"),
        (ModelInfo(name="m"), "unknown"),
        (None, "unknown"),
    ],
)
def test_a_model_fits_when_all_of_it_is_in_vram(model: ModelInfo | None, verdict: str) -> None:
    assert verdicts("warm", side(0.1), model)["part of the model outside of VRAM"] == verdict


def test_without_a_first_token_nothing_is_known() -> None:
    assert set(verdicts("warm", side(), None).values()) == {"unknown"}


def test_an_idle_gap_is_set_against_a_warm_direct_call() -> None:
    done = {"warm": runs.workload("warm", side(9.0, 0.1, 0.1), side(0.1))}
    (judged,) = targets_of("idle", side(0.12), WHOLE, done)
    assert (judged.value, judged.verdict) == (pytest.approx(1.2), "fail")
    assert targets_of("idle", side(0.12), WHOLE, {}) == []


@pytest.mark.parametrize(("loads", "verdict"), [(0, "pass"), (1, "fail"), (None, "unknown")])
def test_other_options_may_cost_no_load(loads: int | None, verdict: str) -> None:
    assert list(verdicts("mixed-options", side(0.1, loads=loads)).values()) == [verdict]


def test_a_run_fails_by_what_was_asked_for_only() -> None:
    slower = runs.workload("flood", runs.side(0.1, seed=1), runs.side(0.3, seed=2))
    slower = dataclasses.replace(slower, targets=targets_of("warm", slower.via, None, {}))
    broken = statistics.side([runs.sample(None, error="it broke"), runs.sample(0.2, call=2)], 0)
    run = runs.run([slower, runs.workload("idle", broken, side(0.1, 0.1))])
    run = dataclasses.replace(run, workloads=(slower, run.workloads[1]))
    assert failures(run, [FailOn.NEVER]) == failures(run, []) == []
    (errors,) = failures(run, [FailOn.ERRORS])
    assert errors == "idle: 1 of 2 calls direct had no answer"
    (later,) = failures(run, [FailOn.SLOWER])
    assert later.startswith("flood: the first token comes later by way of the proxy")
    assert failures(run, [FailOn.TARGETS]) == []
    missed = dataclasses.replace(slower, targets=targets_of("warm", side(3.0, 3.0), None, {}))
    found = failures(dataclasses.replace(run, workloads=(missed,)), [FailOn.TARGETS])
    assert "flood: first call: 3000 ms is not below 2000 ms" in found
