"""`pilotlight bench report`, started as a user starts it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.bench.report import page
from proxy.bench.results import to_json
from tests.bench import runs
from tests.cli.test_check import pilotlight

if TYPE_CHECKING:
    from pathlib import Path

# Without anything to draw, which takes its time.
RUN = runs.run(())


def test_kept_results_get_their_report_beside_them(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(to_json(RUN))
    result = pilotlight("bench", "report", str(tmp_path / "a.json"))
    assert (result.returncode, result.stdout, result.stderr) == (0, f"{tmp_path / 'a.html'}\n", "")
    assert (tmp_path / "a.html").read_text(encoding="utf-8") == page.render(RUN)


def test_a_report_that_cannot_be_made_or_written_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(to_json(runs.run(())))
    missing = pilotlight("bench", "report", str(tmp_path / "b.json"))
    assert missing.returncode == 2
    assert missing.stderr == f"pilotlight bench report: {tmp_path / 'b.json'}: No such file or directory\n"
    nowhere = pilotlight("bench", "report", str(tmp_path / "a.json"), "--out", str(tmp_path / "no" / "a.html"))
    assert nowhere.returncode == 1
    assert nowhere.stderr == f"pilotlight bench report: {tmp_path / 'no' / 'a.html'}: No such file or directory\n"
