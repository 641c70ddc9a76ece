"""What a run leaves behind: JSON, CSV and the report, in one folder."""

from __future__ import annotations

import os
import tempfile
from typing import TYPE_CHECKING

from proxy.bench.report import page
from proxy.bench.results import ResultsError, to_json
from proxy.bench.spreadsheet import to_csv

if TYPE_CHECKING:
    from pathlib import Path

    from proxy.bench.results import Run


def prepare(folder: Path) -> None:
    """Make the folder, and see that files can be written into it: before a run, not after it.

    Raises:
        ResultsError: It cannot be made, or not be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ResultsError(f"{folder}: {error.strerror or error}") from None


def write(run: Run, folder: Path) -> list[Path]:
    """Write the three files of a run, one after the other; the results come first.

    They are called after the run's start, as ``bench-20261126T081500Z.json``.

    Raises:
        ResultsError: One cannot be written; those before it are there.
    """
    stem = folder / ("bench-" + "".join(letter for letter in run.started_at if letter.isalnum()))
    results, samples, report = (stem.with_name(f"{stem.name}.{kind}") for kind in ("json", "csv", "html"))
    replace(results, to_json(run))
    replace(samples, to_csv(run).encode("utf-8", "replace"))
    replace(report, page.render(run).encode("utf-8", "replace"))
    return [results, samples, report]


def replace(path: Path, content: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        ResultsError: It cannot be written.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        try:
            with draft.open("wb") as out:
                out.write(content)
                out.flush()
                os.fsync(out.fileno())
            draft.replace(path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ResultsError(f"{path}: {error.strerror or error}") from None
