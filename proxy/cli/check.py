"""``pilotlight check``: are these settings usable, and what do they come to?"""

from __future__ import annotations

import typer
import yaml

from proxy.cli.options import Admin, Config, Listen, Models, UpstreamUrl, flags, load_or_exit
from proxy.settings import Settings, warnings


def check(
    config: Config = None,
    upstream: UpstreamUrl = None,
    listen: Listen = None,
    admin: Admin = None,
    model: Models = None,
) -> None:
    """Validate the settings and print the effective ones as YAML.

    Warnings go to standard error. The exit code is 2 where a setting cannot be used, and its name is printed.
    """
    settings = load_or_exit(config, flags(upstream, listen, admin, model))
    typer.echo(effective_yaml(settings), nl=False)
    for line in warnings(settings):
        typer.echo(f"warning: {line}", err=True)


def effective_yaml(settings: Settings) -> str:
    """All settings as a file that gives the same settings again."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100)
