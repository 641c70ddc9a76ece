"""``pilotlight bench compare``: two runs beside each other, before and after a change."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from proxy.bench.compare import Comparison
    from proxy.bench.results import Estimate

# Of what goes into a file or a pipe: wide enough for each row to be one line.
_WIDTH = 110

Before = Annotated[Path, typer.Argument(metavar="A.json", help="Results of `pilotlight bench`, before the change.")]
After = Annotated[Path, typer.Argument(metavar="B.json", help="Results after it.")]
FailOn = Annotated[
    Literal["slower"] | None,
    typer.Option("--fail-on", help="End with exit code 1 where anything became slower.", show_default=False),
]


def compare(
    a: Before,
    b: After,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    fail_on: FailOn = None,
) -> None:
    """Set two runs side by side: what became faster or slower, as far as they can show it.

    The ratio is before divided by after, so above 1 is faster; its interval holds for all rows together with 95 %
    confidence. What differs between the runs beside the change is told on standard error.
    """
    # Imported late: the other commands need neither results nor a table.
    import orjson
    from rich.console import Console

    from proxy.bench import compare as comparing
    from proxy.bench.results import ResultsError, read

    try:
        before, after = read(a), read(b)
    except ResultsError as error:
        typer.echo(f"pilotlight bench compare: {error}", err=True)
        raise typer.Exit(2) from None
    comparison = comparing.compare(before, after)
    if as_json:
        typer.echo(orjson.dumps(comparison, option=orjson.OPT_INDENT_2).decode())
    else:
        out = Console() if Console().is_terminal else Console(width=_WIDTH)
        out.print(_table(comparison))
        for warning in comparison.warnings:
            typer.echo(f"warning: {warning}", err=True)
        if not comparison.changes:
            typer.echo("Nothing was measured in both runs.", err=True)
    if fail_on is not None and comparison.has(fail_on):
        raise typer.Exit(1)


def _table(comparison: Comparison) -> Table:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    from proxy.bench.report.words import seconds

    colours = {"faster": "green", "slower": "red", "no difference": "dim"}
    sides = {"via": "proxied"}
    table = Table(
        title="Before and after",
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for heading in ("", "side", "measure"):
        table.add_column(heading)
    for heading in ("before", "after", "ratio", "interval"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", min_width=len("no difference"))
    for change in comparison.changes:
        table.add_row(
            escape(change.name),
            sides.get(change.side, change.side),
            change.measure,
            seconds(change.before_s),
            seconds(change.after_s),
            f"{change.ratio.value:.2f}",
            _interval(change.ratio),
            f"[{colours[change.verdict]}]{change.verdict}[/]",
        )
    table.caption = (
        "Means; ratio: before / after, above 1 is faster. No difference: none that these runs can show, because the "
        "interval holds 1. The intervals hold together with 95 % confidence."
    )
    return table


def _interval(ratio: Estimate) -> str:
    return "-" if ratio.low is None or ratio.high is None else f"{ratio.low:.2f} to {ratio.high:.2f}"
