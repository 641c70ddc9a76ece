"""What a request target asks for, and which targets and framings are not passed on. Pure.

Source: RFC 9112 sections 3.2 and 6.1; reliability notes on what aiohttp 3.14.5 accepts and leaves to its user.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from proxy.errors import (
    BadRequest,
    MethodNotAllowed,
    MisdirectedHost,
    MisdirectedLoop,
    NotImplementedHere,
    VersionNotSupported,
)
from proxy.wire.headers import names_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxy.wire.headers import Field, Names


class Target(NamedTuple):
    """Where a request goes.

    Attributes:
        path: Path and query as received, beginning with a slash; ``*`` for ``OPTIONS *``.
        authority: Of an absolute-form target, ``None`` otherwise. It takes the place of Host (RFC 9112 3.2.2).
    """

    path: str
    authority: str | None = None


def parse_target(raw: str) -> Target:
    """Read origin-form, absolute-form and asterisk-form.

    Raises:
        BadRequest: None of them.
    """
    if raw.startswith("//"):
        # Joined with a base, it would name a host of the sender's choice (RFC 3986 section 4.2).
        raise BadRequest("the request target begins with two slashes")
    if raw.startswith("/") or raw == "*":
        return Target(raw)
    scheme, separator, rest = raw.partition("://")
    if not separator or scheme.lower() not in ("http", "https"):
        raise BadRequest("the request target is not one that a server is asked for")
    cut = min((i for i in (rest.find(mark) for mark in "/?") if i >= 0), default=len(rest))
    authority, path = rest[:cut], rest[cut:]
    if not authority or "@" in authority:
        raise BadRequest("the request target has no usable authority")
    return Target(path if path.startswith("/") else "/" + path, authority)


def refuse_elsewhere(authority: str, port: int) -> None:
    """Refuse an absolute-form target that is for another server: this is no forward proxy.

    Args:
        authority: Of the target; whether its name is one of ours is for the guard to say.
        port: That the request came to.

    Raises:
        MisdirectedHost: It is for another port.
    """
    _, _, told = authority.rpartition(":")
    if (told if told.isdigit() else "80") != str(port):
        raise MisdirectedHost("the request target is for another server")


def refuse_unfit(method: str, version: tuple[int, int], fields: Sequence[Field], names: Names | None = None) -> None:
    """Refuse what cannot be relayed without changing its meaning.

    Args:
        method: As sent.
        version: Of HTTP.
        fields: As received.
        names: Theirs, where they are known already.

    Raises:
        MethodNotAllowed: CONNECT.
        VersionNotSupported: Neither HTTP/1.0 nor 1.1; aiohttp reads an HTTP/0.9 line too.
        NotImplementedHere: A transfer coding beside chunked, which aiohttp drops silently.
        BadRequest: A field value that is not UTF-8 and would vanish on the way out.
    """
    if method == "CONNECT":
        raise MethodNotAllowed("CONNECT is not offered here")
    if version not in ((1, 0), (1, 1)):
        raise VersionNotSupported("only HTTP/1.0 and HTTP/1.1 are spoken here")
    names = names or names_of(fields)
    if b"transfer-encoding" in names.at:
        for (_, value), name in zip(fields, names.lower, strict=True):
            if name == b"transfer-encoding" and value.strip().lower() != b"chunked":
                raise NotImplementedHere("the only transfer coding is chunked")
    for _, value in fields:
        if not value.isascii():
            try:
                value.decode()
            except UnicodeDecodeError:
                raise BadRequest("a header value is not UTF-8") from None


def refuse_loop(fields: Sequence[Field], own_name: bytes, names: Names | None = None) -> None:
    """Refuse a request that this proxy has sent itself.

    Args:
        fields: As received.
        own_name: Ours in ``Via``.
        names: Of the fields, where they are known already.

    Raises:
        MisdirectedLoop: Our name stands in ``Via`` (RFC 9110 section 7.6.3).
    """
    names = names or names_of(fields)
    if b"via" not in names.at:
        return
    if any(name == b"via" and own_name in value for (_, value), name in zip(fields, names.lower, strict=True)):
        raise MisdirectedLoop("this request has already been through this proxy: upstream.url points back at it")
