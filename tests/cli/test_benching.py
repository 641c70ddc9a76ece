"""What is printed and written, and with which exit code, of runs that were not measured."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Any

import pytest

from proxy.bench import statistics
from proxy.bench.results import ModelComparison, ModelInfo, read
from proxy.bench.targets import FailOn
from proxy.cli.benching import Given, finish
from tests.bench import runs
from tests.bench.workloads.scenes import plan

if TYPE_CHECKING:
    from pathlib import Path

    from proxy.bench.results import Run


def given(out: Path, **more: Any) -> Given:
    whole: dict[str, Any] = {
        "plan": plan("warm"),
        "direct": "http://a",
        "via": "http://b",
        "admin": None,
        "headers": {},
        "key": "",
        "models": [],
        "target_ms": 420.0,
        "fail_on": frozenset(),
        **more,
    }
    return Given(out=out, **whole)


def slower() -> Run:
    return runs.run([runs.workload("flood", runs.side(0.1, seed=1), runs.side(0.3, seed=2))])


def test_what_fails_is_told_and_ends_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert finish(slower(), "", given(tmp_path, fail_on=frozenset([FailOn.ERRORS]))) == 0
    assert capsys.readouterr().err == ""
    assert finish(slower(), "", given(tmp_path, fail_on=frozenset([FailOn.SLOWER]))) == 1
    assert "pilotlight bench: flood: the first token comes later" in capsys.readouterr().err


def test_a_side_that_was_lost_ends_with_1_and_what_there_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert finish(slower(), "direct does not answer any more", given(tmp_path)) == 1
    printed = capsys.readouterr()
    assert printed.err == "pilotlight bench: direct does not answer any more\n"
    assert "flood" in printed.out
    assert len(list(tmp_path.glob("bench-*.json"))) == 1


def test_where_nothing_was_measured_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = runs.run([])
    assert finish(empty, "", given(tmp_path)) == 1
    assert finish(dataclasses.replace(empty, interrupted=True), "", given(tmp_path)) == 130
    printed = capsys.readouterr()
    assert (printed.out, list(tmp_path.iterdir())) == ("", [])
    assert printed.err == "pilotlight bench: nothing was measured\n" * 2


def test_results_that_cannot_be_written_go_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert finish(slower(), "", given(tmp_path / "gone")) == 1
    printed = capsys.readouterr()
    assert re.fullmatch(r"pilotlight bench: --out: \S+\.json: No such file or directory\n", printed.err)
    (kept,) = tmp_path.glob("pilotlight-bench-*/bench-*.json")
    assert read(kept) == slower()
    # The table comes first, whatever happens to the files.
    assert printed.out.index("flood") < printed.out.index(str(kept))


def test_errors_are_told_beside_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = statistics.side([runs.sample(None, error="it broke"), runs.sample(0.2, call=2)], 0)
    run = runs.run([runs.workload("idle", broken, runs.side(0.1, seed=1))])
    assert finish(run, "", given(tmp_path, fail_on=frozenset([FailOn.ERRORS]))) == 1
    assert "idle, direct: 1 of 2 calls had no answer, the first one: it broke" in capsys.readouterr().out


def test_models_are_told_with_the_recommendation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    info = ModelInfo(name="one[1]", size_bytes=1 << 30, memory_bytes=2 << 30, vram_bytes=1 << 30)
    result = statistics.model(info, [runs.sample(0.5)], error="it broke in the end")
    models = ModelComparison(goal="as quick as can be", models=(result,), recommended=None, reason="None is.")
    assert finish(runs.run(None, models=models), "", given(tmp_path)) == 0
    printed = capsys.readouterr().out
    assert "Models: as quick as can be" in printed
    assert re.search(r"one\[1\] +1\.00 GiB +2\.00 GiB +50% ", printed)
    assert "one[1]: it broke in the end" in printed
    assert printed.index("Recommended: none of them") < printed.index("None is.")


@pytest.mark.parametrize(("columns", "tables"), [("80", 2), ("200", 1)])
def test_no_digit_is_lost_in_a_narrow_terminal(
    columns: str, tables: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert finish(slower(), "", given(tmp_path)) == 0
    text = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out)
    assert len(re.findall(r"^ +workload +side ", text, re.MULTILINE)) == tables
    assert "…" not in text
