from __future__ import annotations

import json
import re
from dataclasses import asdict
from typing import TYPE_CHECKING

from proxy.bench import machine
from proxy.bench.own.output import tell, write

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_a_step_is_told_on_standard_error_with_the_time_of_day(capsys: pytest.CaptureFixture[str]) -> None:
    tell("round 1 of 2")
    said = capsys.readouterr()
    assert re.fullmatch(r"\d\d:\d\d:\d\d round 1 of 2\n", said.err)
    assert said.out == ""


def test_the_file_says_on_which_machine_the_figures_were_found(tmp_path: Path) -> None:
    write(tmp_path / "found.json", {"rows": [1, 2]})
    assert json.loads((tmp_path / "found.json").read_text()) == {"machine": asdict(machine.look()), "rows": [1, 2]}
