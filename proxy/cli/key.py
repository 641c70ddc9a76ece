"""``pilotlight key new``: a key for a caller, and the lines about it for the settings file."""

from __future__ import annotations

import enum
import secrets
from collections.abc import Callable
from typing import Annotated, Any, Literal

import typer
import yaml

from proxy.edge.keys import KEY_BYTES, hash_key, new_key
from proxy.settings.values import check_key_name, check_pattern

key = typer.Typer(no_args_is_help=True, help="Keys for callers.")


class Scope(enum.StrEnum):
    """What a key is for; a type of its own because typer takes no list of literals."""

    INFER = "infer"
    READ = "read"
    MANAGE = "manage"


Name = Annotated[str, typer.Argument(metavar="NAME", help="What the key is called in settings and log.")]
Class = Annotated[
    Literal["interactive", "normal", "batch"] | None,
    typer.Option("--class", help="The most urgent class of its requests.", show_default=False),
]
Scopes = Annotated[
    list[Scope] | None,
    typer.Option("--scope", help="What it is for; repeatable. Without: infer and read.", show_default=False),
]
Patterns = Annotated[
    list[str] | None,
    typer.Option(
        "--model", metavar="PATTERN", help="A model that it may use; repeatable. Without: all.", show_default=False
    ),
]


@key.callback()
def _key() -> None:
    # Without it, typer would make the one sub-command the command itself.
    """Keys for callers."""


@key.command()
def new(name: Name, class_: Class = None, scope: Scopes = None, model: Patterns = None) -> None:
    """Make a key, and print it with the lines for the settings file.

    The key is printed first, on a line of its own, and kept nowhere: the settings file gets its hash.
    """
    _check("NAME", name, check_key_name)
    for pattern in model or ():
        _check("--model", pattern, check_pattern)
    made = new_key(secrets.token_bytes(KEY_BYTES))
    entry: dict[str, Any] = {"name": name, "hash": hash_key(made)}
    if class_ is not None:
        entry["class"] = class_
    if scope:
        entry["scopes"] = [each.value for each in dict.fromkeys(scope)]
    if model:
        entry["models"] = list(dict.fromkeys(model))
    typer.echo(made)
    typer.echo("The key above is not shown again. For the settings file, under `keys`:", err=True)
    line = yaml.safe_dump(entry, default_flow_style=True, sort_keys=False, width=10_000).strip()
    typer.echo(f"keys:\n  - {line}")


def _check(what: str, text: str, rule: Callable[[str], str]) -> None:
    try:
        rule(text)
    except ValueError as error:
        typer.echo(f"pilotlight: {what}: {text!r} {error}", err=True)
        raise typer.Exit(2) from None
