"""Which header fields cross the proxy, and what it adds.

Fields are pairs of bytes, in order, with the case and the repetitions of the sender: what is not named here arrives
as it was sent. Source: RFC 9110 section 7.6.1 (hop-by-hop fields and those that ``Connection`` names).
"""

from __future__ import annotations

import functools
import re
from itertools import compress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Field = tuple[bytes, bytes]

_HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"proxy-authenticate",
        b"proxy-authorization",
    )
)
# Naming these in Connection must not take them away: they decide framing and routing (RFC 9112 section 6.3).
_NEVER_NAMED_AWAY = frozenset((b"content-length", b"host"))

#: What goes where a body is framed anew.
LENGTH = frozenset((b"content-length",))

#: What may say whose a request is, to us or to a gateway in front of Ollama.
CREDENTIALS = (b"authorization", b"cookie", b"x-api-key")

_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")


# What a stranger may make us remember of names is this much, times the size of the caches.
_REMEMBERED_BYTES: Final = 2048
_REMEMBERED: Final = 256


class Names:
    """The names of a head's fields, in the order of the fields.

    A client sends the same names with each of its requests, and many questions are asked about them: so they are read
    once, and the same object stands for the same names.

    Attributes:
        lower: All, in lower case.
        at: Where each stands first.
    """

    __slots__ = ("at", "lower")

    def __init__(self, lower: tuple[bytes, ...]) -> None:
        self.lower = lower
        self.at = {name: place for place, name in reversed(tuple(enumerate(lower)))}

    def __repr__(self) -> str:
        return f"<Names {len(self.lower)}>"

    def first(self, fields: Sequence[Field], name: bytes) -> bytes | None:
        """The first value of a field, or ``None``.

        Args:
            fields: Those whose names these are.
            name: In lower case.
        """
        place = self.at.get(name)
        return None if place is None else fields[place][1]

    def without(self, fields: Sequence[Field], dropped: frozenset[bytes]) -> list[Field]:
        """The fields that do not have one of these names, in lower case."""
        return list(compress(fields, _kept(self, dropped)))


def names_of(fields: Sequence[Field]) -> Names:
    """Their names."""
    # No name has a line end in it: the parser of a message would have ended the line there.
    joined = b"\n".join([name for name, _ in fields])
    return _remembered(joined) if 0 < len(joined) <= _REMEMBERED_BYTES else _read(joined)


def _read(joined: bytes) -> Names:
    return Names(tuple(joined.lower().split(b"\n")) if joined else ())


_remembered = functools.lru_cache(maxsize=_REMEMBERED)(_read)


@functools.lru_cache(maxsize=2 * _REMEMBERED)
def _kept(names: Names, dropped: frozenset[bytes]) -> tuple[bool, ...]:
    return tuple(name not in dropped for name in names.lower)


def end_to_end(
    fields: Sequence[Field], without: frozenset[bytes] = frozenset(), names: Names | None = None
) -> list[Field]:
    """Drop the fields that are meant for one hop.

    Args:
        fields: As received.
        without: Further names to drop, lower case.
        names: Of the fields, where they are known already.
    """
    names = names or names_of(fields)
    dropped = _with_hop_by_hop(without)
    if b"connection" in names.at and (named := _named_in_connection(fields, names) - dropped):
        # Of the sender's choice: not to be remembered.
        dropped |= named
        return [field for field, name in zip(fields, names.lower, strict=True) if name not in dropped]
    return names.without(fields, dropped)


@functools.lru_cache(maxsize=32)
def _with_hop_by_hop(without: frozenset[bytes]) -> frozenset[bytes]:
    return _HOP_BY_HOP | without


def _named_in_connection(fields: Sequence[Field], names: Names) -> frozenset[bytes]:
    values = [value for (_, value), name in zip(fields, names.lower, strict=True) if name == b"connection"]
    named = {token.strip().lower() for value in values for token in value.split(b",")}
    return frozenset(named - _NEVER_NAMED_AWAY) & names.at.keys()


def first(fields: Iterable[Field], name: bytes) -> bytes | None:
    """The first value of a field, or ``None``. ``name`` in lower case."""
    size = len(name)
    for key, value in fields:
        # The length tells nearly all of them apart, and costs less than another spelling.
        if len(key) == size and key.lower() == name:
            return value
    return None


def has_token(fields: Iterable[Field], name: bytes, token: bytes) -> bool:
    """Whether a comma-separated field contains a token, without regard to case."""
    size = len(name)
    for key, value in fields:
        if len(key) == size and key.lower() == name and token in [part.strip().lower() for part in value.split(b",")]:
            return True
    return False


def valid_request_id(value: bytes | None) -> bool:
    """Whether a client's X-Request-Id is kept: 1 to 128 visible ASCII characters."""
    return value is not None and _REQUEST_ID.fullmatch(value) is not None


def encode(start_line: bytes, fields: Iterable[Field]) -> bytes:
    """A message head, with its closing blank line."""
    return b"%b%b\r\n\r\n" % (start_line, encode_fields(fields))


def encode_fields(fields: Iterable[Field]) -> bytes:
    """Fields of a head, each with a line end before it."""
    parts: list[bytes] = []
    for name, value in fields:
        parts += (b"\r\n", name, b": ", value)
    return b"".join(parts)


def stream_fields(fields: Sequence[Field]) -> list[Field]:
    """What is added to a stream's head so that no hop behind us holds it back.

    A ``Cache-Control`` of Ollama's own stays as it is; fields of that name are read as one list (RFC 9110 5.3).
    """
    cache_control = first(fields, b"cache-control")
    if cache_control is None:
        return [(b"X-Accel-Buffering", b"no"), (b"Cache-Control", b"no-cache, no-transform")]
    return [(b"X-Accel-Buffering", b"no"), (b"Cache-Control", b"no-transform")]
