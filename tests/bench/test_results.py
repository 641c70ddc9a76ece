from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
from hypothesis import given, settings, strategies

from proxy.bench import results
from proxy.bench.results import ResultsError, Run, Sample, from_json, read, target, to_json
from tests.bench import runs

if TYPE_CHECKING:
    from pathlib import Path

WHOLE = to_json(runs.run())
FINITE = strategies.floats(allow_nan=False, allow_infinity=False)
MAYBE = strategies.none() | FINITE
BARE = runs.workload("any", runs.side(0.1, seed=1, calls=2), runs.side(0.1, seed=1, calls=2))


def changed(place: str, value: Any) -> bytes:
    """The results with one field at another value; ``...`` takes it away."""
    tree = json.loads(WHOLE)
    *path, last = (int(part) if part.isdigit() else part for part in place.split("."))
    owner = tree
    for part in path:
        owner = owner[part]
    if value is ...:
        del owner[last]
    else:
        owner[last] = value
    return json.dumps(tree).encode()


@pytest.mark.parametrize("run", [runs.run(), runs.run(()), runs.models_run()])
def test_what_is_written_is_what_is_read(run: Run) -> None:
    assert from_json(to_json(run), "a.json") == run


def with_sample(sample: Sample) -> Run:
    workload = dataclasses.replace(BARE, direct=dataclasses.replace(BARE.direct, samples=(sample,)))
    return dataclasses.replace(runs.run(()), workloads=(workload,))


@settings(max_examples=50)
@given(strategies.builds(Sample, t_start_s=FINITE, ttft_s=MAYBE, total_s=MAYBE, parts=strategies.none()))
def test_any_sample_can_be_written_and_read_again(sample: Sample) -> None:
    """But for what no file of ours holds: half a surrogate pair and whole numbers beyond 64 bits."""
    read_again = from_json(to_json(with_sample(sample)), "a.json").workloads[0].direct.samples[0]
    for field in dataclasses.fields(Sample):
        before, after = getattr(sample, field.name), getattr(read_again, field.name)
        assert before == after or isinstance(before, str) or abs(before) >= 2**63, field.name


def test_what_a_server_said_does_not_keep_a_run_from_being_written() -> None:
    found = from_json(to_json(with_sample(runs.sample(0.1, tokens=10**30, error="half \ud800 a pair"))), "a.json")
    (sample,) = found.workloads[0].direct.samples
    assert (sample.tokens, sample.error) == (2**63 - 1, "half ? a pair")


@pytest.mark.parametrize(
    ("place", "value", "finding"),
    [
        ("machine.cores", "2", 'machine.cores: "2" must be a valid integer'),
        ("machine.cores", 2.5, "machine.cores: 2.5 must be a valid integer"),
        ("machine.colour", "red", "machine.colour: unknown field"),
        ("duration_s", ..., "duration_s: is missing"),
        ("duration_s", float("nan"), "duration_s: NaN must be a finite number"),
        ("interrupted", 1, "interrupted: 1 must be a valid boolean"),
        ("workloads.0.direct.samples.3.ttft_s", "x", 'workloads.0.direct.samples.3.ttft_s: "x" must be a valid number'),
        (
            "workloads.0.targets.0.verdict",
            "maybe",
            "workloads.0.targets.0.verdict: \"maybe\" must be 'pass', 'fail' or",
        ),
        ("workloads", {}, "workloads: {} must be a valid array"),
    ],
)
def test_a_field_that_cannot_be_used_is_named(place: str, value: Any, finding: str) -> None:
    with pytest.raises(ResultsError) as caught:
        from_json(changed(place, value), "a.json")
    # NaN is no JSON, which is found before any field.
    expected = "a.json: not JSON" if value != value else f"a.json: {finding}"
    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "finding"),
    [
        (b"", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[]", "has no schema"),
        (b"{}", "has no schema"),
        (changed("schema", "pilotlight.bench/2"), 'has schema "pilotlight.bench/2"; results that this version reads'),
        (changed("schema", {"a": "b" * 100}), 'has schema {"a": "bbb'),
    ],
)
def test_what_is_no_such_file_is_said_in_one_line(content: bytes, finding: str) -> None:
    with pytest.raises(ResultsError, match=r"^a.json: [^\n]+$") as caught:
        from_json(content, "a.json")
    assert finding in str(caught.value)
    assert len(str(caught.value)) < 200


@given(strategies.binary())
def test_no_content_ends_in_another_error(content: bytes) -> None:
    with pytest.raises(ResultsError):
        from_json(content, "a.json")


def test_a_file_that_is_not_there_or_a_folder_is_said_in_one_line(tmp_path: Path) -> None:
    for path, finding in ((tmp_path / "none.json", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(ResultsError) as caught:
            read(path)
        assert str(caught.value) == f"{path}: {finding}"


@pytest.mark.parametrize(("value", "verdict"), [(739.9, "pass"), (740.0, "fail"), (741.0, "fail"), (None, "unknown")])
def test_a_target_is_met_below_its_limit(value: float | None, verdict: str) -> None:
    assert target("P95", 740, "ms", value).verdict == verdict


def test_the_schema_accepts_what_is_written_and_refuses_what_the_reader_refuses() -> None:
    validator = jsonschema.Draft202012Validator(results.json_schema())
    validator.check_schema(results.json_schema())
    for run in (runs.run(), runs.models_run()):
        validator.validate(json.loads(to_json(run)))
    for place, value in (("machine.cores", "2"), ("machine.colour", "red"), ("duration_s", ...), ("schema", "other")):
        assert not validator.is_valid(json.loads(changed(place, value))), place


def test_every_field_of_the_schema_says_what_it_is() -> None:
    shapes = [results.json_schema(), *results.json_schema()["$defs"].values()]
    silent = [
        f"{shape['title']}.{name}"
        for shape in shapes
        for name, field in shape["properties"].items()
        if not field.get("description")
    ]
    assert silent == []
