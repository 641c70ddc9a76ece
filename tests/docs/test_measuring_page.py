"""The page about measuring says what the program has."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from proxy.bench import targets
from proxy.bench.own import selfcheck
from proxy.bench.workloads.kinds import WORKLOADS
from proxy.cli.bench import WARM_CALLS, measure

PAGE = (Path(__file__).parent.parent.parent / "docs" / "measuring.md").read_text(encoding="utf-8")
DEFAULTS = {name: value.default for name, value in inspect.signature(measure).parameters.items()}


def rows(heading: str) -> dict[str, str]:
    """First and last cell of each row of the tables below a heading."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")]
    return {cells[0].strip(): " | ".join(cells[1:]) for cells in lines}


def test_every_workload_has_its_row() -> None:
    assert [name.strip("`") for name in rows("The workloads") if name.strip("`") in WORKLOADS] == list(WORKLOADS)


@pytest.mark.parametrize(
    ("option", "default"),
    [
        ("--runs N", DEFAULTS["runs"]),
        ("--seconds S", DEFAULTS["seconds"]),
        ("--calls N", WARM_CALLS),
        ("--concurrency N", DEFAULTS["concurrency"]),
        ("--tokens N", DEFAULTS["tokens"]),
        ("--settle S", DEFAULTS["settle"]),
    ],
)
def test_each_default_is_the_programs(option: str, default: float) -> None:
    assert re.search(rf"\({default:g}\b", rows("The workloads")[f"`{option}`"])


def test_the_limits_are_those_that_are_judged() -> None:
    found = rows("Targets")
    limits = [found[name].partition(" |")[0] for name in found if name != "figure" and not name.startswith("-")]
    assert limits == [
        f"{targets.FIRST_MS / 1000:g} s",
        f"{targets.LATER_MS:g} ms",
        f"{targets.P50_MS:g} ms",
        f"{targets.P95_MS:g} ms",
        f"{targets.VARIANCE_PERCENT:g} %",
        f"{targets.OUTSIDE_PERCENT:g} %",
        f"{targets.IDLE_TIMES:g} times",
        "1",
    ]


def test_every_word_of_fail_on_is_explained() -> None:
    assert {name.strip("`") for name in rows("Exit codes")} >= set(targets.FailOn)


def test_the_speeds_of_the_check_are_its_own() -> None:
    speeds = selfcheck.Speeds()
    told = f"a load takes {speeds.load_s:g} s, {speeds.prompt_tokens_per_s:g} tokens of a prompt"
    assert told in PAGE
    assert f"{speeds.tokens_per_s:g} tokens are written in a second" in " ".join(PAGE.split())
