from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from proxy.bench.own import scheduler as bench
from proxy.bench.own.arrivals import Mix, mixed

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

SMALL = Mix(count=1_500, span_s=54.0)


def test_decisions_of_both_kinds_are_measured() -> None:
    costs = [bench.empty_cost(200), *bench.crowded_costs(100, 200)]
    assert [cost.target_us for cost in costs] == [20.0, 50.0, 50.0]
    assert all(0 < cost.p50_us <= cost.p99_us for cost in costs)


def test_of_three_policies_ours_swaps_least_and_serves_classes_in_order() -> None:
    hours = {policy: bench.hour(policy, mixed(SMALL, 5)) for policy in bench.POLICIES}
    ours = hours.pop("Pilotlight")
    assert all(ours.loads < other.loads for other in hours.values())
    assert [waits.priority for waits in ours.waits] == ["interactive", "normal", "batch"]
    assert ours.waits[0].mean_s < ours.waits[1].mean_s < ours.waits[2].mean_s
    for other in hours.values():
        assert ours.waits[0].p95_s < other.waits[0].p95_s
    assert {sum(waits.count for waits in each.waits) for each in (ours, *hours.values())} == {SMALL.count}


def test_ours_swaps_once_for_six_in_turn_and_starves_nobody() -> None:
    ours, plain, as_ollama = (bench.scenes(policy) for policy in bench.POLICIES)
    assert (ours.order, ours.loads) == ("AAABBB", 1)
    assert (plain.order, plain.loads) == ("ABABAB", 5)
    assert ours.other_wait_s < bench.AGEING_S + bench.LOAD_S + 1.0
    assert as_ollama.other_wait_s > 200.0
    assert ours.steady_loads == 3


def test_the_program_prints_its_tables_and_writes_its_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "figures.json"
    monkeypatch.setattr(sys, "argv", ["scheduler", "--quick", "--json", str(target)])
    bench.main()
    printed = capsys.readouterr()
    assert "empty queue" in printed.out
    assert printed.out.count("interactive") == 3
    assert "first come" in printed.err
    found = json.loads(target.read_text(encoding="utf-8"))
    assert [len(found[part]) for part in ("costs", "hours", "scenes")] == [3, 3, 3]
