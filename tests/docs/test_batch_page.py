"""What `docs/batch.md` says is so, and its examples run."""

from __future__ import annotations

import asyncio
import json
import math
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import typer.main

from proxy.batch.job import Job
from proxy.batch.line import FIELDS, PATHS
from proxy.batch.lines import MOST_BYTES
from proxy.batch.run import AHEAD
from proxy.cli import app
from proxy.simulator import SimulatedOllama

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PAGE = (Path(__file__).parent.parent.parent / "docs" / "batch.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
OPTIONS = {parameter.name: parameter for parameter in typer.main.get_command(app).commands["batch"].params}  # type: ignore[attr-defined]


@pytest.fixture
async def url() -> AsyncIterator[str]:
    async with SimulatedOllama("demo", speed=math.inf) as ollama:
        yield ollama.url


def quoted(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


async def run(code: str, url: str, folder: Path) -> str:
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-c", code.replace(Job().url, url)],
        stdout=asyncio.subprocess.PIPE,
        cwd=folder,
        env={"PYTHONPATH": str(Path(__file__).parent.parent.parent)},
    )
    out, _ = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 0
    return out.decode()


async def test_the_example_for_a_program_gives_results(url: str, tmp_path: Path) -> None:
    lines = (await run(EXAMPLES[0], url, tmp_path)).splitlines()
    assert [re.match(r"(\d) (None|sea) \S", line) is not None for line in lines] == [True, True]


async def test_the_example_from_file_to_file_goes_on(url: str, tmp_path: Path) -> None:
    (questions,) = re.findall(r"\$ cat questions.jsonl\n(.*?)\$", PAGE, re.DOTALL)
    (tmp_path / "questions.jsonl").write_text(questions)
    assert await run(EXAMPLES[1], url, tmp_path) == "0 3 0\n"
    assert await run(EXAMPLES[1], url, tmp_path) == "3 0 0\n"
    results = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_bytes().splitlines()]
    assert [result["line"] for result in results] == [1, 2, 3]
    assert results[1]["id"] == "q2"


def test_every_field_of_a_line_is_told_with_its_kinds() -> None:
    table = PAGE[PAGE.index("| field | with |") : PAGE.index("`id` and `meta` are not sent")]
    told: dict[str, set[str]] = {kind: {kind, "id", "meta"} for kind in PATHS}
    for row in table.splitlines()[2:]:
        cells = row.split("|")
        if len(cells) < 3:
            continue
        for kind in quoted(cells[2]) or PATHS:
            told[kind] |= set(quoted(cells[1]))
    assert told == {kind: set(fields) for kind, fields in FIELDS.items()}
    assert all(f"| `{kind}` |" in PAGE and f"| `{path}` |" in PAGE for kind, path in PATHS.items())


def test_every_option_is_told_and_its_default_is_the_jobs() -> None:
    table = PAGE[PAGE.index("## Options") : PAGE.index("A key is taken")]
    told = set(re.findall(r"`(--[\w-]+)", table))
    known = {name for parameter in OPTIONS.values() for name in (*parameter.opts, *parameter.secondary_opts)}
    assert told == {name for name in known if name.startswith("--") and name != "--help"}
    job = Job()
    for name in ("url", "model", "system", "concurrency", "priority", "retries", "timeout_s", "away_s", "ordered"):
        assert OPTIONS[name].default == getattr(job, name), name
    for told_number in (f"({job.concurrency})", f"({job.retries})", f"({job.timeout_s:g})", f"({job.away_s:g})"):
        assert told_number in table or told_number[:-1] + ":" in table, told_number


def test_bounds_are_those_of_the_code() -> None:
    assert f"at most {MOST_BYTES >> 20} MiB" in PAGE
    assert f"at most {AHEAD} lines are ahead" in PAGE
