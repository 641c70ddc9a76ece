from __future__ import annotations

import csv
import io
from dataclasses import replace

import pytest

from proxy.bench.results import PARTS
from proxy.bench.spreadsheet import COLUMNS, to_csv
from tests.bench import runs


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_there_is_a_line_for_each_call_and_its_figures_are_those_of_the_results() -> None:
    run = runs.run()
    found = iter(rows(to_csv(run)))
    for workload in run.workloads:
        for side in ("direct", "via"):
            for sample in getattr(workload, side).samples:
                row = next(found)
                assert (row["workload"], row["model"], row["side"]) == (workload.name, "llama3.2:3b", side)
                assert (int(row["run"]), int(row["call"]), int(row["tokens"])) == (1, sample.call, 8)
                assert (float(row["t_start_s"]), float(row["ttft_s"])) == (sample.t_start_s, sample.ttft_s)
                assert (row["cold"], row["excluded"]) == (str(int(sample.cold)), sample.excluded)
                for part in PARTS:
                    value = getattr(sample.parts, f"{part}_s", None)
                    assert row[f"{part}_s"] == ("" if value is None else repr(value))
    assert next(found, None) is None


def test_what_is_not_known_is_empty() -> None:
    workload = runs.run().workloads[0]
    failed = replace(workload.direct, samples=(runs.sample(None, error="answered 500", prompt_tokens=None),))
    row, *_ = rows(to_csv(runs.run((replace(workload, direct=failed),))))
    assert [row[name] for name in ("ttft_s", "total_s", "prompt_tokens", "load_s")] == [""] * 4
    assert row["error"] == "answered 500"


def test_calls_to_compared_models_are_told_apart_by_the_model() -> None:
    found = rows(to_csv(runs.models_run(("small", "large"))))
    assert [row["model"] for row in found] == ["small"] * 25 + ["large"] * 25


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_no_text_from_outside_becomes_a_formula(text: str) -> None:
    workload = runs.run().workloads[0]
    side = replace(workload.direct, samples=(runs.sample(None, error=text),))
    row, *_ = rows(to_csv(runs.run((replace(workload, name=text, direct=side),))))
    assert not row["error"].startswith(("=", "+", "-", "@", "\t", "\r"))
    assert not row["workload"].startswith(("=", "+", "-", "@", "\t", "\r"))


def test_a_text_with_quotes_commas_and_lines_stays_one_cell_on_one_line() -> None:
    workload = runs.run().workloads[0]
    side = replace(workload.direct, samples=(runs.sample(None, error='a "b", c\nd\u2028e'),))
    text = to_csv(runs.run((replace(workload, direct=side, via=side),)))
    assert len(text.splitlines()) == 3
    assert [row["error"] for row in rows(text)] == ['a "b", c d e'] * 2
    assert text.splitlines()[0] == ",".join(COLUMNS)
