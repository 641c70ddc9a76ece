"""The command line: one file per sub-command, each registered here."""

from __future__ import annotations

from typing import Annotated

import typer

from proxy import __version__
from proxy.cli.batch import batch
from proxy.cli.bench import bench
from proxy.cli.check import check
from proxy.cli.demo import demo
from proxy.cli.doctor import doctor
from proxy.cli.key import key
from proxy.cli.serve import serve
from proxy.cli.simulate import simulate

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pilotlight {__version__}")
        raise typer.Exit


@app.callback()
def _pilotlight(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """A reverse proxy beside Ollama: models stay resident, first tokens come sooner."""


app.command()(serve)
app.command()(check)
app.command()(demo)
app.command()(doctor)
app.command()(batch)
app.command()(simulate)
app.add_typer(bench, name="bench")
app.add_typer(key, name="key")


def main() -> None:
    """Run the program; the exit code is 2 for settings that cannot be used."""
    app()
