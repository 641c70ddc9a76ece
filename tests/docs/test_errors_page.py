from __future__ import annotations

import re
from pathlib import Path

from proxy.errors import all_codes

PAGE = (Path(__file__).parent.parent.parent / "docs" / "errors.md").read_text(encoding="utf-8")


def test_the_page_has_every_code_with_its_status_and_no_other() -> None:
    documented = {code: int(status) for code, status in re.findall(r"^\| `(\w+)` \| (\d{3}) \|", PAGE, re.MULTILINE)}
    assert documented == {code: kind.status for code, kind in all_codes().items()}
