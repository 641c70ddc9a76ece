"""docs/how-it-works.md names every route that is more than relayed, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from proxy.wire.routes import table

PAGE = Path(__file__).parents[2] / "docs" / "how-it-works.md"
ROW = re.compile(r"^\| `([A-Z]+) (/[^`]*)` \|", re.MULTILINE)


def test_the_page_and_the_table_name_the_same_routes() -> None:
    documented = ROW.findall(PAGE.read_text(encoding="utf-8"))
    assert len(documented) == len(set(documented))
    assert set(documented) == set(table())
