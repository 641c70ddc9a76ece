from __future__ import annotations

import re
from pathlib import Path

from proxy.errors import all_codes

PAGE = (Path(__file__).parent.parent.parent / "docs" / "errors.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| `(\w+)` \| (\d{3}) \| (.*) \| (.*) \|$", PAGE, re.MULTILINE)


def test_the_page_has_every_code_with_its_status_and_no_other() -> None:
    documented = {code: int(status) for code, status, _, _ in ROWS}
    assert documented == {code: kind.status for code, kind in all_codes().items()}


def test_each_code_says_when_it_happens_and_what_to_do() -> None:
    for code, _, when, remedy in ROWS:
        assert when.endswith("."), code
        assert remedy.endswith("."), code
