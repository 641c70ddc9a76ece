"""``docs/residency.md`` has every state and every kind of loss, and none that does not exist."""

from __future__ import annotations

import re
from pathlib import Path

from proxy.residency.runner import Loss, State

PAGE = (Path(__file__).parent.parent.parent / "docs" / "residency.md").read_text(encoding="utf-8")


def first_cells(heading: str) -> set[str]:
    table = PAGE[PAGE.index(f"| {heading} |") :].split("\n\n", 1)[0]
    return set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))


def test_the_page_has_every_state() -> None:
    assert first_cells("state") == {state.value for state in State}


def test_the_page_has_every_kind_of_loss() -> None:
    assert first_cells("loss") == {loss.value for loss in Loss if loss}
