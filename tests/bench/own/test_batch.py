from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from proxy.bench.own.batch import AT_ONCE, BATCH, SEQUENTIAL, BenchError, check, describe, measure

if TYPE_CHECKING:
    from pathlib import Path


def test_every_way_is_measured_and_told(tmp_path: Path) -> None:
    report = tmp_path / "batch.json"
    arguments = ["--lines", "50", "--rounds", "1", "--json", str(report)]

    result = subprocess.run(
        [sys.executable, "-m", "proxy.bench.own.batch", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )

    assert result.returncode == 0, result.stderr
    samples = json.loads(report.read_text())["samples"]
    assert list(samples) == [SEQUENTIAL, AT_ONCE, BATCH]
    assert all(len(taken) == 1 and taken[0]["cpu_s"] > 0 for taken in samples.values())
    assert [line.split("  ")[0] for line in result.stdout.splitlines()[1:4]] == [SEQUENTIAL, AT_ONCE, BATCH]


def test_the_table_has_lines_a_second_and_the_ratio() -> None:
    def sample(elapsed_s: float) -> dict[str, float]:
        return {"elapsed_s": elapsed_s, "cpu_s": 1.0, "rss_kib": 2048}

    samples = {SEQUENTIAL: [sample(10.0)], AT_ONCE: [sample(5.0)], BATCH: [sample(1.0), sample(2.0), sample(9.0)]}
    text = describe({"lines": 10_000, "concurrency": 8, "samples": samples, "rss_kib_of_a_fifth": [1024]})
    assert text.splitlines()[3].split() == ["pilotlight", "batch", "5,000", "0.100", "2.0", "5.00"]
    assert "with 2,000 lines: 1.0 MiB" in text


def test_a_line_without_a_result_and_one_with_two_are_found(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    for numbers in ((1,), (1, 1), (1, 2, 2)):
        out.write_text("".join(f'{{"line": {number}}}\n' for number in numbers))
        with pytest.raises(BenchError, match=f"{len(numbers)} results for 2 lines"):
            check(out, 2)


def test_a_program_that_fails_is_told(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="ended with 3"):
        measure([sys.executable, "-c", "raise SystemExit(3)"], tmp_path / "log", None)
