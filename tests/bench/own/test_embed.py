from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from proxy.bench.own.embed import GATHERED, LIST, SINGLE, describe

if TYPE_CHECKING:
    from pathlib import Path


def test_every_way_is_measured_and_what_it_means_is_said(tmp_path: Path) -> None:
    report = tmp_path / "embed.json"
    arguments = ["--texts", "6", "--rounds", "1", "--json", str(report)]

    result = subprocess.run(
        [sys.executable, "-m", "proxy.bench.own.embed", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )

    assert result.returncode == 0, result.stderr
    assert "Measured on the simulated Ollama" in result.stdout
    seconds = json.loads(report.read_text())["seconds"]
    assert list(seconds) == [LIST, SINGLE, GATHERED]
    assert all(len(values) == 1 and values[0] > 0 for values in seconds.values())


@pytest.mark.parametrize(
    ("gathered_s", "says"),
    [(1.0, "4.0 times as fast here: embed_batch is worth"), (5.0, "0.80 times as fast here: leave")],
)
def test_whether_it_is_worth_it_is_said(gathered_s: float, says: str) -> None:
    seconds = {LIST: [0.9], SINGLE: [4.0, 4.0, 9.0], GATHERED: [gathered_s]}

    assert says in describe(seconds, 32, simulated=False)


def test_a_server_that_is_not_there_is_said_in_one_line() -> None:
    arguments = ["--upstream", "http://127.0.0.1:9", "--texts", "1", "--rounds", "1"]

    result = subprocess.run(
        [sys.executable, "-m", "proxy.bench.own.embed", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )

    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("scripts/bench embed: ")
