"""``pilotlight bench report``: the report of results that were kept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Results = Annotated[Path, typer.Argument(metavar="FILE.json", help="Results of `pilotlight bench`.")]
Out = Annotated[
    Path | None,
    typer.Option("--out", metavar="FILE.html", help="Without: beside the results.", show_default=False),
]


def report(file: Results, out: Out = None) -> None:
    """Write the HTML report of a file of results anew, for instance with pictures after matplotlib was installed."""
    # Imported late: the other commands need no template.
    from proxy.bench.files import replace
    from proxy.bench.report import page
    from proxy.bench.results import ResultsError, read

    path = out or file.with_suffix(".html")
    try:
        run = read(file)
    except ResultsError as error:
        typer.echo(f"pilotlight bench report: {error}", err=True)
        raise typer.Exit(2) from None
    try:
        replace(path, page.render(run).encode("utf-8", "replace"))
    except ResultsError as error:
        typer.echo(f"pilotlight bench report: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(path)
