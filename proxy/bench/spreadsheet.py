"""The samples of a run as CSV: a line for each call, in the order of the file of results."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any, Final

from proxy.bench.results import PARTS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxy.bench.results import Run, Sample

_CALL: Final = ("run", "call", "t_start_s", "ttft_s", "total_s", "tokens", "prompt_tokens")
COLUMNS: Final = (
    *("workload", "model", "side", *_CALL),
    *(f"{part}_s" for part in PARTS),
    *("cold", "excluded", "error"),
)
# By these a spreadsheet knows a formula, and what stands in a cell may be what a server answered.
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


def to_csv(run: Run) -> str:
    """All samples, with a line of headings; what is not known is empty, true and false are 1 and 0."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for workload, model, side, sample in _samples(run):
        parts = [getattr(sample.parts, f"{part}_s", None) for part in PARTS]
        numbers = [getattr(sample, name) for name in _CALL]
        ends = (int(sample.cold), _text(sample.excluded), _text(sample.error or ""))
        writer.writerow([_text(workload), _text(model), side, *numbers, *parts, *ends])
    return out.getvalue()


def _samples(run: Run) -> Iterator[tuple[str, str, str, Sample]]:
    model = run.model.name if run.model is not None else ""
    for workload in run.workloads:
        for side in ("direct", "via"):
            for sample in getattr(workload, side).samples:
                yield workload.name, model, side, sample
    for each in run.models.models if run.models is not None else ():
        for sample in each.samples:
            yield "", each.model.name, "direct", sample


def _text(text: Any) -> str:
    """Text on one line that no spreadsheet takes for a formula."""
    line = " ".join(str(text).splitlines())
    return f"'{line}" if line.startswith(_FORMULA) else line
