"""``pilotlight demo``: see the difference on a simulated Ollama."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from proxy.settings import process_environ


def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave simulator and proxy running until Ctrl-C.")] = False,
) -> None:
    """Compare first tokens direct and proxied, on a simulated Ollama.

    Everything runs on free ports of loopback and is ended afterwards. The figures are measured on the simulation and
    say nothing about your models; `pilotlight serve` and the admin port's /requests do.
    """
    # Imported late: the other commands need neither a client nor a table.
    from proxy.bench.demo import DemoError
    from proxy.cli.screen import show

    ours = ("PILOTLIGHT_", "OLLAMA_")
    environ = {name: value for name, value in process_environ().items() if not name.startswith(ours)}
    try:
        asyncio.run(show(environ, keep))
    except DemoError as error:
        typer.echo(f"pilotlight demo: {error}", err=True)
        raise typer.Exit(1) from None
    except (KeyboardInterrupt, asyncio.CancelledError):
        # Ctrl-C, or SIGTERM; everything that was started has been ended on the way here.
        raise typer.Exit(0 if keep else 130) from None
