"""``docs/doctor.md`` has every finding, check and option, and the schema describes what is printed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import typer.main

from proxy.cli import app
from proxy.doctor import facts
from proxy.doctor.checks import CHECKS, CODES, examine
from proxy.doctor.facts import Admin, Contact, Observed, Reached, Snapshot, Stamp, Stream
from proxy.doctor.finding import Severity
from proxy.doctor.report import FORMAT, as_json
from proxy.doctor.watching import Kind
from tests.doctor.observed import NOW, URL, answer, described, observed, row, stream

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "doctor.md").read_text(encoding="utf-8")
SCHEMA = json.loads((ROOT / "docs" / "doctor.schema.json").read_text(encoding="utf-8"))
EVENLY = [0.1 + index * 0.02 for index in range(32)]


def section(heading: str) -> str:
    return PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]


def test_every_code_is_documented_with_meaning_and_remedy() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| ([\w, ]+) \| (.+\.) \| (.+\.) \|$", section("Findings"), re.MULTILINE)
    assert [code for code, *_ in rows] == list(CODES)
    for code, number, severities, *_ in rows:
        assert 1 <= int(number) <= len(CHECKS), code
        assert set(severities.split(", ")) <= {severity.value for severity in Severity}, code


def test_every_check_is_documented_with_its_number() -> None:
    rows = re.findall(
        r"^\| (\d+) \| `(\w+)` \| .+\? \|$|^\| (\d+) \| `(\w+)` \| .+\. \|$", section("Checks"), re.MULTILINE
    )
    named = [(int(one or other), name or also) for one, name, other, also in rows]
    assert named == [(number, check.__name__) for number, check in enumerate(CHECKS, 1)]


def test_every_option_is_documented() -> None:
    command = typer.main.get_command(app).commands["doctor"]  # type: ignore[attr-defined]
    options = {name for parameter in command.params for name in parameter.opts} - {"--help"}
    assert {row.split()[0] for row in re.findall(r"^\| `([^`]+)` \|", section("Options"), re.MULTILINE)} == options


def test_every_variable_that_is_shown_is_named() -> None:
    assert [name for name in facts.VARIABLES if f"`{name}`" not in section("JSON")] == []


SITUATIONS = {
    "well": observed(row("m"), direct=stream(*EVENLY, made_s=0.64), was_loaded=True),
    "away": observed(upstream=Contact(URL, Reached.REFUSED, text="refused"), running=None, stored=None),
    "everything": observed(
        row("m", 8, 4, expires=NOW + 60),
        row("n", 2, 0, expires=None, ctx=0),
        settings={"models": [{"name": "m", "options": {"num_ctx": 8192}}, {"name": "gone"}]},
        models={"m": described("m", context_bytes=131_072)},
        stored=[("m", 8), ("n", 2)],
        environ={"OLLAMA_HOST": "127.0.0.1:11434", "OLLAMA_KEEP_ALIVE": "0"},
        stamps=[Stamp(NOW, NOW, NOW + 99)],
        foreign_host=answer(),
        direct=stream(*EVENLY, made_s=0.64),
        through=stream(*[0.7] * 32, made_s=0.64),
        via=answer(server="nginx/1.22.1"),
        after=Snapshot(NOW + 1, (row("m", 8, 4, expires=NOW + 400),)),
        admin=Admin(answer(503, body={"status": "not ready"}), reloads={("m", "options"): 2.0}),
        spans=((0.0, 1.0), (0.5, 2.0)),
        asked_at_once=4,
        watched=(Snapshot(NOW, (row("m"), row("n"))), Snapshot(NOW + 9, (row("o"),))),
    ),
    "failed stream": observed(row("m"), direct=Stream(URL, "m", error="answered 404")),
}


@pytest.mark.parametrize("name", SITUATIONS)
def test_what_is_printed_is_what_the_schema_says(name: str) -> None:
    seen: Observed = SITUATIONS[name]
    page: Any = json.loads(json.dumps(as_json(seen, examine(seen), "0.1.0")))
    jsonschema.validate(page, SCHEMA, cls=jsonschema.Draft202012Validator)
    if name == "everything":
        # So that the schema is held to what is there, and not only to what is not.
        assert len(page["findings"]) > 10
        assert page["changes"]


def test_the_schema_is_one_and_knows_every_word() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    properties = SCHEMA["properties"]
    assert properties["format"]["const"] == FORMAT
    assert properties["upstream"]["properties"]["reached"]["enum"] == [each.name.lower() for each in Reached]
    assert properties["changes"]["items"]["properties"]["kind"]["enum"] == [kind.value for kind in Kind]
    assert properties["findings"]["items"]["properties"]["severity"]["enum"] == [each.value for each in Severity]


@pytest.mark.parametrize("removed", ["findings", "format", "upstream"])
def test_a_page_without_a_member_is_not_what_the_schema_says(removed: str) -> None:
    page = as_json(SITUATIONS["well"], examine(SITUATIONS["well"]), "0.1.0")
    del page[removed]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(page, SCHEMA, cls=jsonschema.Draft202012Validator)
