from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

from proxy.bench import results
from proxy.bench.results import Run
from proxy.bench.spreadsheet import COLUMNS
from scripts.schema import ORDER, schema_file, tables

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")


def test_every_field_of_every_shape_has_its_row() -> None:
    """Counted from the classes, not from the schema that the tables are made of."""
    shapes = [kind for kind in vars(results).values() if dataclasses.is_dataclass(kind) and isinstance(kind, type)]
    assert sorted(shape.__name__ for shape in shapes) == sorted(ORDER)
    for shape in shapes:
        heading = "the file" if shape is Run else f"`{shape.__name__}`"
        table = PAGE.partition(f"\n**{heading}**: ")[2].partition("\n\n**")[0]
        rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| [^|]{3,} \|$", table, re.MULTILINE)
        assert rows == [field.name for field in dataclasses.fields(shape)], shape


def test_types_are_told_as_a_reader_needs_them() -> None:
    rows = tables()
    assert "| `schema` | `pilotlight.bench/1` | " in rows
    assert "| `verdict` | `pass`, `fail`, `unknown` | " in rows
    assert "| `samples` | list of `Sample` | " in rows
    assert "| `via` | `Server` or null | " in rows
    assert "| `ttft_s` | number or null | " in rows


def test_the_schema_in_the_documents_is_that_of_the_reader() -> None:
    assert json.loads(schema_file()) == results.json_schema()


def test_every_column_of_the_csv_file_is_documented() -> None:
    section = PAGE.partition("## The columns of the CSV file")[2].partition("\n## ")[0]
    assert re.findall(r"`(\w+)`", section.partition(":")[0].replace("`direct` or `via`", "")) == list(COLUMNS)
