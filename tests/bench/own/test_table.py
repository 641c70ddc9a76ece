from __future__ import annotations

from proxy.bench.own.table import table


def test_names_stand_on_the_left_and_figures_on_the_right() -> None:
    assert table([("", "calls", ""), ("longer", "7", "pass"), ("x", "1234567", "")]) == [
        "          calls",
        "longer        7  pass",
        "x       1234567",
    ]
