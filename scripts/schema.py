"""Write what is derived from the shapes of ``pilotlight bench``'s results: docs/bench.schema.json, and in
docs/results.md the tables of the fields, between two marks.

Run by ``scripts/pages``; a test compares the files with what this module would write.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from proxy.bench.results import json_schema

_PAGE: Final = Path(__file__).parent.parent / "docs" / "results.md"
BEGIN: Final = "<!-- Fields: written by scripts/pages -->\n"
END: Final = "<!-- Fields: end -->\n"
# The order of reading, from the whole to its parts.
ORDER: Final = (
    *("Run", "Machine", "Server", "ModelInfo", "Settings", "Workload", "Side", "Sample", "Parts", "Figures", "Summary"),
    *("Estimate", "Position", "Ratio", "Target", "ModelComparison", "ModelResult"),
)


def schema_file() -> str:
    """The JSON schema of a file of results."""
    return json.dumps(json_schema(), indent=2) + "\n"


def results_page() -> str:
    """The page on results, with its tables of fields written anew."""
    text = _PAGE.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{_PAGE}: has no marks between which the tables of fields belong")
    return f"{before}{BEGIN}\n{tables()}\n{END}{after}"


def tables() -> str:
    """A table of the fields of each shape."""
    schema = json_schema()
    shapes = {"Run": schema, **schema["$defs"]}
    return "\n".join(_table(name, shapes[name]) for name in ORDER)


def _table(name: str, shape: dict[str, Any]) -> str:
    heading = "the file" if name == "Run" else f"`{name}`"
    lines = [f"**{heading}**: {shape['description']}", "", "| field | type | is |", "| --- | --- | --- |"]
    for field, about in shape["properties"].items():
        # A line's end in a docstring is none on the page.
        described = " ".join(about["description"].split())
        lines.append(f"| `{field}` | {_type(about)} | {described} |")
    return "\n".join(lines) + "\n"


def _type(about: dict[str, Any]) -> str:
    if "$ref" in about:
        return f"`{about['$ref'].rpartition('/')[2]}`"
    if "anyOf" in about:
        return " or ".join(_type(each) for each in about["anyOf"])
    if "const" in about:
        return f"`{about['const']}`"
    if "enum" in about:
        return ", ".join(f"`{each}`" for each in about["enum"])
    if about["type"] == "array":
        return f"list of {_type(about['items'])}"
    kind: str = about["type"]
    return {"integer": "whole number", "boolean": "true, false", "string": "text"}.get(kind, kind)
