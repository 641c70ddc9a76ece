from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from proxy.bench.compare import FIRST_TOKEN, WHOLE_ANSWER, Comparison, compare
from proxy.bench.results import ModelComparison, Run, Server
from tests.bench import runs

if TYPE_CHECKING:
    from proxy.bench.compare import Verdict


def one(via_s: float, *, seed: int = 2, direct_s: float = 0.1, calls: int = 20, name: str = "warm") -> Run:
    """A run of one workload; the seed is that of the proxied calls."""
    direct = runs.side(direct_s, seed=1, calls=calls)
    return runs.run((runs.workload(name, direct, runs.side(via_s, seed=seed, calls=calls)),))


def verdicts(comparison: Comparison) -> dict[tuple[str, str, str], Verdict]:
    return {(change.name, change.side, change.measure): change.verdict for change in comparison.changes}


@pytest.mark.parametrize(
    ("after_s", "verdict"), [(0.1, "no difference"), (0.101, "no difference"), (0.2, "slower"), (0.05, "faster")]
)
def test_a_change_of_the_proxied_side_is_told_and_the_direct_one_stays(after_s: float, verdict: Verdict) -> None:
    found = compare(one(0.1), one(after_s, seed=3))
    assert verdicts(found) == {
        ("warm", "direct", FIRST_TOKEN): "no difference",
        ("warm", "direct", WHOLE_ANSWER): "no difference",
        ("warm", "via", FIRST_TOKEN): verdict,
        ("warm", "via", WHOLE_ANSWER): verdict,
    }
    assert found.warnings == ()
    (change,) = [each for each in found.changes if (each.side, each.measure) == ("via", FIRST_TOKEN)]
    assert change.ratio.value == pytest.approx(change.before_s / change.after_s)
    assert (change.before_calls, change.after_calls) == (20, 20)


def test_a_run_beside_itself_shows_no_difference_and_no_warning() -> None:
    found = compare(runs.run(), runs.run())
    assert len(found.changes) == 12
    assert set(verdicts(found).values()) == {"no difference"}
    assert found.warnings == ()


def test_before_and_after_exchanged_exchange_faster_and_slower() -> None:
    first, second = one(0.1), one(0.2, seed=3)
    there, back = verdicts(compare(first, second)), verdicts(compare(second, first))
    exchanged = {"faster": "slower", "slower": "faster", "no difference": "no difference"}
    assert back == {row: exchanged[verdict] for row, verdict in there.items()}


def test_too_few_calls_show_no_difference_however_far_apart_they_are() -> None:
    found = compare(one(0.1, calls=3), one(9.0, calls=3))
    assert set(verdicts(found).values()) == {"no difference"}
    assert found.warnings == ("too few calls for an interval: warm",)


def test_pairs_of_equal_runs_show_a_difference_hardly_ever() -> None:
    """Of six comparisons: with 95 % for all rows of one together, two of six are wrong once in thirty times."""
    false = sum(
        set(verdicts(compare(one(0.1, seed=seed, calls=10), one(0.1, seed=seed + 500, calls=10))).values())
        != {"no difference"}
        for seed in range(100, 106)
    )
    assert false <= 1


def test_a_direct_side_that_moved_is_warned_of() -> None:
    (warning,) = compare(one(0.1), one(0.1, direct_s=0.2)).warnings
    assert warning.startswith("the direct side has changed too, in warm: ")


def test_what_differs_beside_the_change_is_warned_of() -> None:
    before = runs.run()
    assert before.model is not None
    after = replace(
        before,
        machine=replace(before.machine, cores=4),
        model=replace(before.model, name="llama3.2:1b"),
        via=Server(url="http://127.0.0.1:11435", version="0.25.0"),
        settings=replace(before.settings, runs=5, header_names=()),
        pilotlight_version="1.1.0",
        interrupted=True,
        workloads=before.workloads[:2],
    )
    assert compare(before, after).warnings == (
        "machine.cores differs: 2, then 4",
        "model.name differs: llama3.2:3b, then llama3.2:1b",
        "via.version differs: 0.24.0, then 0.25.0",
        "settings.runs differs: 1, then 5",
        "settings.header_names differs: Authorization, then nothing",
        "pilotlight_version differs: 1.0.0, then 1.1.0",
        "only in the first run: openai",
        "the second run was stopped early",
    )


def test_calls_that_failed_are_warned_of() -> None:
    before = one(0.1)
    workload = before.workloads[0]
    failed = runs.sample(None, error="answered 500")
    broken = runs.statistics.side((*workload.via.samples, failed, failed), 0)
    after = replace(before, workloads=(replace(workload, via=broken),))
    found = compare(before, after)
    assert found.warnings == ("warm, via: 0 calls failed, then 2; a call that fails is in no figure",)


def test_models_are_compared_cold_and_warm() -> None:
    before = runs.models_run(("m",))
    slower = runs.model("m", ttft_s=0.4, load_s=1.0, seed=0)
    after = runs.run((), models=ModelComparison(goal="", models=(slower,), recommended=None, reason=""))
    found = verdicts(compare(before, after))
    assert set(found) == {("m", side, measure) for side in ("cold", "warm") for measure in (FIRST_TOKEN, WHOLE_ANSWER)}
    assert found["m", "warm", FIRST_TOKEN] == "slower"


def test_runs_of_different_things_have_nothing_in_common() -> None:
    found = compare(runs.run(), runs.models_run(("m",)))
    assert found.changes == ()
    assert "only in the second run: m" in found.warnings
    assert "model differs: known, then nothing" in found.warnings
