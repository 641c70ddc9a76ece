"""The table of `pilotlight bench`. Colours only on a terminal."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Final

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from proxy.bench.report.words import seconds, significant, size

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from proxy.bench.results import Estimate, ModelComparison, ModelResult, Ratio, Run, Side, Target, Workload

_WIDTH: Final = 140
_UNBOUNDED: Final = 10_000
_COLOURS: Final = {"pass": "green", "fail": "red", "unknown": "dim"}
_NONE: Final = "-"


def print_run(run: Run) -> None:
    """Everything that a run came to, on standard output."""
    out = Console() if Console().is_terminal else Console(width=_WIDTH)
    if run.models is not None:
        _print_models(out, run.models)
    else:
        _print_workloads(out, run)
        for workload in run.workloads:
            _print_sides(out, workload)
        _print_targets(out, [(workload.name, each) for workload in run.workloads for each in workload.targets])
    for note in run.notes:
        out.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)


def _print_columns(
    out: Console, title: str, first: Sequence[str], groups: Sequence[Sequence[str]], rows: Sequence[Mapping[str, str]]
) -> None:
    """One table; in a terminal too narrow for it, one for each group of columns, because no digit may be lost.

    Args:
        out: Where.
        title: Of the first one.
        first: Headings of the columns that each table begins with.
        groups: Those of the others.
        rows: Cells by heading; one that is absent is blank.
    """
    whole = _table(title, first, list(chain.from_iterable(groups)), rows)
    if Measurement.get(out, out.options.update(max_width=_UNBOUNDED), whole).maximum <= out.width:
        out.print(whole)
        return
    for number, group in enumerate(groups):
        out.print(_table("" if number else title, first, group, rows))


def _table(title: str, first: Sequence[str], others: Sequence[str], rows: Sequence[Mapping[str, str]]) -> Table:
    table = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD)
    for heading in first:
        table.add_column(heading, no_wrap=True)
    for heading in others:
        # An interval may wrap, a number must not.
        table.add_column(heading, justify="right", no_wrap=heading != "ratio")
    for row in rows:
        table.add_row(*(row.get(heading, "") for heading in (*first, *others)))
    return table


def _print_workloads(out: Console, run: Run) -> None:
    rows = []
    for workload in run.workloads:
        rows.append({"workload": workload.name, "side": "direct", **_cells(workload.direct)})
        if run.via is not None:
            rows.append({"side": "proxied", **_cells(workload.via), "ratio": _ratio(workload.ratio)})
    ratio = ["ratio"] if run.via is not None else []
    groups = (["mean", "P50", "P90", "P95", "max"], ["variance", "tokens/s", "loads", *ratio])
    _print_columns(out, "Time to first token", ("workload", "side"), groups, rows)
    caption = "Loads: those that calls waited for. The warm-up of each side is in no figure."
    if run.via is not None:
        caption += (
            " Ratio: direct / proxied, of the means, with its 95 % interval; above 1 the first token comes sooner "
            "through the proxy."
        )
    out.print(caption, markup=False, highlight=False)


def _cells(side: Side) -> dict[str, str]:
    figures = side.figures
    found = {"tokens/s": _rate(figures.tokens_per_s), "loads": _NONE if side.loads is None else str(side.loads)}
    ttft = figures.ttft
    if ttft is None:
        return {**dict.fromkeys(("mean", "P50", "P90", "P95", "max", "variance"), _NONE), **found}
    return {
        "mean": seconds(ttft.mean_s.value),
        "P50": seconds(ttft.p50_s.value),
        "P90": seconds(ttft.p90_s.value),
        "P95": seconds(ttft.p95_s.value),
        "max": seconds(ttft.max_s),
        "variance": f"{ttft.variance_percent.value:.0f} %",
        **found,
    }


def _rate(rate: Estimate | None) -> str:
    return _NONE if rate is None else significant(rate.value)


def _ratio(ratio: Ratio | None) -> str:
    if ratio is None:
        return _NONE
    mean = ratio.mean
    if mean.low is None or mean.high is None:
        return f"{significant(mean.value)}"
    colour = "green" if mean.low > 1 else "red" if mean.high < 1 else "dim"
    return f"[{colour}]{significant(mean.value)} ({significant(mean.low)} to {significant(mean.high)})[/]"


def _print_sides(out: Console, workload: Workload) -> None:
    """What does not fit into the table."""
    for name, side in (("direct", workload.direct), ("proxied", workload.via)):
        figures = side.figures
        told = [f"call {each.call} {seconds(each.ttft_s.value)}" for each in figures.positions]
        if figures.errors:
            error = next(sample.error for sample in side.samples if sample.error and not sample.excluded)
            told.append(f"{figures.errors} of {figures.calls} calls had no answer, the first one: {error}")
        if told:
            text = f"{workload.name}, {name}: {', '.join(told)}"
            out.print(text, markup=False, highlight=False, soft_wrap=True)


def _print_targets(out: Console, targets: list[tuple[str, Target]]) -> None:
    if not targets:
        return
    table = Table(title="Targets", title_justify="left", box=box.SIMPLE_HEAD)
    for heading in ("", "figure"):
        table.add_column(heading)
    for heading in ("measured", "below", ""):
        table.add_column(heading, justify="right")
    for name, each in targets:
        value = _NONE if each.value is None else f"{_amount(each.value)} {each.unit}"
        verdict = f"[{_COLOURS[each.verdict]}]{each.verdict}[/]"
        table.add_row(escape(name), each.what, value, f"{each.limit:g} {each.unit}", verdict)
    out.print(table)


def _amount(value: float) -> str:
    return f"{value:.0f}" if float(value).is_integer() else significant(value)


def _print_models(out: Console, comparison: ModelComparison) -> None:
    groups = (
        ["size", "memory", "in VRAM", "load", "prompt"],
        ["first, cold", "first, warm", "total", "tokens/s"],
    )
    rows = [_model_cells(each) for each in comparison.models]
    _print_columns(out, f"Models: {comparison.goal}", ("model",), groups, rows)
    caption = "Prompt: tokens read in a second, of a long prompt. First token and total: p50; total is warm."
    out.print(caption, markup=False, highlight=False)
    _print_targets(out, [(each.model.name, found) for each in comparison.models for found in each.targets])
    for each in comparison.models:
        if each.error is not None:
            out.print(f"{each.model.name}: {each.error}", markup=False, highlight=False, soft_wrap=True)
    out.print(f"Recommended: {comparison.recommended or 'none of them'}", markup=False, highlight=False)
    out.print(comparison.reason, markup=False, highlight=False, soft_wrap=True)


def _model_cells(result: ModelResult) -> dict[str, str]:
    info = result.model
    share = None if not info.memory_bytes or info.vram_bytes is None else info.vram_bytes / info.memory_bytes
    cold, warm = (
        _NONE if found is None else seconds(found.p50_s.value) for found in (result.ttft_cold, result.ttft_warm)
    )
    return {
        "model": escape(info.name),
        "size": _NONE if info.size_bytes is None else size(info.size_bytes),
        "memory": _NONE if info.memory_bytes is None else size(info.memory_bytes),
        "in VRAM": _NONE if share is None else f"{share:.0%}",
        "load": _NONE if result.load_s is None else seconds(result.load_s.value),
        "prompt": f"{_rate(result.prompt_tokens_per_s)} /s",
        "first, cold": cold,
        "first, warm": warm,
        "total": _NONE if result.total is None else seconds(result.total.p50_s.value),
        "tokens/s": _rate(result.tokens_per_s),
    }
