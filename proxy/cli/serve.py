"""``pilotlight serve``: the proxy."""

from __future__ import annotations

import typer

from proxy.cli.options import Admin, Config, Listen, Models, UpstreamUrl, flags, load_or_exit
from proxy.settings import process_environ


def serve(
    config: Config = None,
    upstream: UpstreamUrl = None,
    listen: Listen = None,
    admin: Admin = None,
    model: Models = None,
) -> None:
    """Run the proxy until it is told to stop."""
    given = flags(upstream, listen, admin, model)
    settings = load_or_exit(config, given)
    # Imported late: `pilotlight check` has no need of a web server.
    from proxy.server.reload import Sources
    from proxy.server.run import run

    raise typer.Exit(run(settings, Sources(config, process_environ(), given)))
