from __future__ import annotations

import ast
from pathlib import Path

import proxy.doctor
from proxy.doctor.checks import CHECKS, CODES, all_findings, examine
from proxy.doctor.facts import Contact, Reached
from proxy.doctor.finding import Severity
from tests.doctor.observed import NOW, URL, answer, observed, row, stream

FOLDER = Path(proxy.doctor.__file__).parent
EVENLY = [0.1 + index * 0.02 for index in range(32)]


def test_where_all_is_well_nothing_is_found_and_what_was_not_looked_at_is_said() -> None:
    even = stream(*EVENLY, made_s=0.64)
    checked = examine(observed(row("m"), direct=even, foreign_host=answer(403)))
    assert all_findings(checked) == []
    assert [each.name for each in checked if not each.skipped] == [
        "reachable",
        "is_ollama",
        "version",
        "openness",
        "resident",
        "lasting",
        "options",
        "names",
        "spill",
        "places",
        "buffering",
    ]
    assert all(each.skipped for each in checked if each.name in {"kept", "happened", "parallel", "reloads"})


def test_the_numbers_of_the_checks_are_those_of_their_docstrings() -> None:
    for number, check in enumerate(CHECKS, 1):
        assert check.__doc__ is not None
        assert check.__doc__.startswith(f"{number}. "), check.__name__


def test_the_gravest_come_first() -> None:
    seen = observed(row("m", expires=NOW + 60), row("n", 2, 0), via=Contact(URL, Reached.REFUSED))
    found = [finding.severity for finding in all_findings(examine(seen))]
    assert found == sorted(found, key=list(Severity).index)
    assert found[0] is Severity.ERROR


def test_a_code_that_is_ignored_is_not_told() -> None:
    seen = observed(row("m", expires=NOW + 60))
    assert [finding.code for finding in all_findings(examine(seen))] == ["unpinned"]
    assert all_findings(examine(seen, {"unpinned"})) == []


def test_nothing_but_the_connection_is_told_of_what_cannot_be_reached() -> None:
    seen = observed(upstream=Contact(URL, Reached.REFUSED), running=None, stored=None)
    assert [finding.code for finding in all_findings(examine(seen))] == ["unreachable"]


def test_every_code_that_is_written_is_listed_once() -> None:
    written: set[str] = set()
    for path in FOLDER.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in {
                "Finding",
                "add",
                "finding",
                "_unreached",
                "_refused",
                "_held",
            }:
                written |= {
                    value.value for value in node.args if isinstance(value, ast.Constant) and value.value in CODES
                }
                if getattr(node.func, "id", "") == "Finding" and isinstance(node.args[0], ast.Constant):
                    assert node.args[0].value in CODES
    written |= {f"model_{state}" for state in ("failed", "lost", "released")}
    assert written == set(CODES)
    assert len(CODES) == len(set(CODES))
