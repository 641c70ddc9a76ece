from __future__ import annotations

from proxy.bench.own.costs import Cost, costs_table


def test_costs_are_judged_by_their_mean() -> None:
    assert Cost("x", 20.0, 1.0, 99.0, 20.0).passed
    assert not Cost("x", 20.1, 1.0, 1.0, 20.0).passed


def test_the_table_and_the_file_have_the_verdict() -> None:
    good, bad = Cost("one comes", 1.25, 1.0, 2.0, 20.0), Cost("one ends", 50.1, 40.0, 60.0, 50.0)
    heading, first, second = (line.split("  ") for line in costs_table([good, bad]))
    assert heading[0] == "processor time, us"
    assert [cell.strip() for cell in first if cell] == ["one comes", "1.2", "1.0", "2.0", "20", "pass"]
    assert second[-1] == "MISS"
    assert (good.as_json()["passed"], bad.as_json()["passed"]) == (True, False)
