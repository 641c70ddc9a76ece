"""The options that more than one sub-command takes, and how they become settings."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from proxy.cli.exits import UNUSABLE
from proxy.errors import ConfigError
from proxy.settings import Settings, load, process_environ
from proxy.wire.urls import without_user

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# RFC 9110, 5.6.2 (token) and 5.5 (a field's value).
_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00-\x1f\x7f]*)")

Config = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="Settings, as YAML.", show_default=False)]
UpstreamUrl = Annotated[
    str | None, typer.Option("--upstream", metavar="URL", help="Where Ollama listens.", show_default=False)
]
Listen = Annotated[
    str | None, typer.Option("--listen", metavar="HOST:PORT", help="Address of the proxy.", show_default=False)
]
Admin = Annotated[
    str | None, typer.Option("--admin", metavar="HOST:PORT", help="Address of the admin port.", show_default=False)
]
Models = Annotated[
    list[str] | None,
    typer.Option("--model", metavar="NAME", help="A further model to keep resident; repeatable.", show_default=False),
]


def flags(upstream: str | None, listen: str | None, admin: str | None, models: list[str] | None) -> dict[str, Any]:
    """The given flags, nested as the settings are; a flag that was not given leaves no trace."""
    given: dict[str, Any] = {}
    if listen is not None:
        given["listen"] = listen
    if admin is not None:
        given["admin"] = admin
    if upstream is not None:
        given["upstream"] = {"url": upstream}
    if models:
        given["models"] = [{"name": name} for name in models]
    return given


def load_or_exit(config: Path | None, given: dict[str, Any]) -> Settings:
    """The settings; or one line on standard error that names the field, and exit code 2."""
    try:
        return load(config, process_environ(), given)
    except ConfigError as error:
        typer.echo(f"pilotlight: {error}", err=True)
        raise typer.Exit(UNUSABLE) from None


def read_header(text: str) -> tuple[str, str]:
    """Name and value of ``NAME: VALUE``.

    Raises:
        ValueError: It is none. The text is not repeated: whoever forgot the name has written nothing but the key.
    """
    match = _HEADER.fullmatch(text)
    if match is None:
        raise ValueError("must be 'NAME: VALUE'")
    return match[1], match[2].strip()


def read_url(text: str, check: Callable[[str], str]) -> str:
    """A URL that ``check`` takes, as it is spelt then.

    Raises:
        ValueError: It does not; a password is not repeated.
    """
    try:
        return check(text)
    except ValueError as error:
        raise ValueError(f"{without_user(text)!r} {error}") from None


@contextlib.contextmanager
def refusing(program: str, option: str) -> Iterator[None]:
    """A ``ValueError`` inside becomes one line on standard error that names the option, and exit code 2."""
    try:
        yield
    except ValueError as error:
        refuse(program, option, str(error))


def refuse(program: str, option: str, message: str) -> NoReturn:
    """One line on standard error that names the option, and exit code 2."""
    typer.echo(f"{program}: {option}: {message}", err=True)
    raise typer.Exit(UNUSABLE)
