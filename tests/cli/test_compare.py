"""`pilotlight bench compare`, started as a user starts it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from proxy.bench.results import Run, Server, to_json
from tests.bench import runs
from tests.cli.test_check import pilotlight

if TYPE_CHECKING:
    from pathlib import Path


def one(via_s: float, seed: int = 2) -> Run:
    return runs.run((runs.workload("warm", runs.side(0.1, seed=1), runs.side(via_s, seed=seed)),))


@pytest.fixture
def kept(tmp_path: Path) -> tuple[str, str]:
    """Two files: the second run is slower by way of the proxy, and had another version there."""
    after = replace(one(0.2, 3), via=Server(url="http://127.0.0.1:11435", version="0.25.0"))
    paths = tmp_path / "a.json", tmp_path / "b.json"
    for path, run in zip(paths, (one(0.1), after), strict=True):
        path.write_bytes(to_json(run))
    return str(paths[0]), str(paths[1])


def test_two_runs_are_shown_with_ratio_interval_and_verdict(kept: tuple[str, str]) -> None:
    result = pilotlight("bench", "compare", *kept)
    assert result.returncode == 0
    rows = [line.split() for line in result.stdout.splitlines() if line.startswith(" ") and "first" in line]
    assert [(row[0], row[1], " ".join(row[2:4])) for row in rows] == [
        ("warm", "direct", "first token"),
        ("warm", "proxied", "first token"),
    ]
    assert [row[-1] for row in rows] == ["difference", "slower"]
    assert result.stderr == "warning: via.version differs: 0.24.0, then 0.25.0\n"


def test_as_json_it_prints_what_the_table_is_made_of(kept: tuple[str, str]) -> None:
    result = pilotlight("bench", "compare", *kept, "--json")
    found = json.loads(result.stdout)
    assert (result.returncode, result.stderr) == (0, "")
    assert found["warnings"] == ["via.version differs: 0.24.0, then 0.25.0"]
    rows = {(row["name"], row["side"], row["measure"]): row for row in found["changes"]}
    slower = rows["warm", "via", "first token"]
    assert slower["verdict"] == "slower"
    assert slower["ratio"]["low"] <= slower["ratio"]["value"] <= slower["ratio"]["high"] < 1
    assert slower["before_calls"] == slower["after_calls"] == 12


def test_the_exit_code_is_1_only_where_it_was_asked_for_and_something_is_slower(kept: tuple[str, str]) -> None:
    assert pilotlight("bench", "compare", *kept, "--fail-on", "slower").returncode == 1
    assert pilotlight("bench", "compare", *reversed(kept), "--fail-on", "slower").returncode == 0


@pytest.mark.parametrize(
    ("content", "finding"),
    [
        (None, "No such file or directory"),
        (b"{", "not JSON"),
        (b'{"schema": "pilotlight.bench/9"}', 'has schema "pilotlight.bench/9"; results that this version reads'),
        (to_json(one(0.1)).replace(b'"cores": 2', b'"cores": "2"'), 'machine.cores: "2" must be a valid integer'),
    ],
)
def test_a_file_that_cannot_be_used_ends_with_2_and_one_line(
    content: bytes | None, finding: str, kept: tuple[str, str], tmp_path: Path
) -> None:
    bad = tmp_path / "bad.json"
    if content is not None:
        bad.write_bytes(content)
    result = pilotlight("bench", "compare", kept[0], str(bad))
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith(f"pilotlight bench compare: {bad}: ")
    assert finding in result.stderr
    assert result.stderr.count("\n") == 1
