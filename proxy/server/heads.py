"""Heads of requests that were read before.

A client that keeps its connection, and one that does not, sends the same head again and again; only the number in
``Content-Length`` changes with the body. Reading it anew costs more than all that relaying does with it (measured: 0.27
ms of a cold 1.4), so a head that aiohttp's parser has taken, and the guard has let in, is looked up by its bytes.

Nothing is guessed: a head is the same, byte for byte and number apart, or it goes to the parser; and only a request
whose head and body are here, whole and alone, is served in this way.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from proxy.relay.head import RequestHead, read_head

if TYPE_CHECKING:
    from aiohttp.http_parser import RawRequestMessage

_END: Final = b"\r\n\r\n"
_MOST_DIGITS: Final = 15
_LENGTH: Final = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,%d})(?=\r\n|\Z)" % _MOST_DIGITS, re.IGNORECASE)
# What strangers may make us remember is this much, times the number.
_LONGEST_BYTES: Final = 4096
_MOST: Final = 256


class Measured(NamedTuple):
    """Where the first request in some bytes ends, as its head says.

    Attributes:
        key: Its head without the number in ``Content-Length``.
        length_at: Where that number stood.
        size_bytes: Of head and body.
        body_at: Where the body begins.
    """

    key: bytes
    length_at: int
    size_bytes: int
    body_at: int


def measure(data: bytes) -> Measured | None:
    """Find the end of a request that begins with these bytes; ``None`` where its head does not tell it plainly."""
    end = data.find(_END, 0, _LONGEST_BYTES)
    if end < 0:
        return None
    length = _LENGTH.search(data, 0, end)
    if length is None:
        return None
    at, after = length.span(1)
    return Measured(data[:at] + data[after:end], at, end + 4 + int(length[1]), end + 4)


class Known:
    """A head that was read before.

    Attributes:
        head: As it was read, without its length.
    """

    __slots__ = ("_after", "_before", "head")

    def __init__(self, before: bytes, after: bytes, head: RequestHead) -> None:
        self._before = before
        self._after = after
        self.head = head

    def __repr__(self) -> str:
        return f"<Known {self.head.method} {self.head.path}>"

    def body_of(self, data: bytes) -> bytes | None:
        """The body of a request with this head, where all of it is here, and nothing else."""
        if not data.startswith(self._before):
            return None
        at = len(self._before)
        end = data.find(b"\r", at, at + _MOST_DIGITS + 1)
        if end < 0 or not data.startswith(self._after, end):
            return None
        digits, start = data[at:end], end + len(self._after)
        return data[start:] if digits.isdigit() and int(digits) == len(data) - start else None


class Heads:
    """What is remembered of heads, the oldest forgotten first."""

    def __init__(self) -> None:
        self._known: dict[bytes, Known] = {}

    def __repr__(self) -> str:
        return f"<Heads {len(self)}>"

    def __len__(self) -> int:
        return len(self._known)

    def find(self, measured: Measured) -> Known | None:
        return self._known.get(measured.key)

    def remember(self, measured: Measured, head: RequestHead) -> None:
        """Serve the same head with this, from now on."""
        key = measured.key
        if key not in self._known and len(self._known) >= _MOST:
            del self._known[next(iter(self._known))]
        self._known[key] = Known(key[: measured.length_at], key[measured.length_at :] + _END, head)


def repeatable(data: bytes, measured: Measured, message: RawRequestMessage) -> RequestHead | None:
    """The head that further requests with the same bytes may be served by; ``None`` where that is not certain.

    Args:
        data: What the parser was given, a request at its beginning.
        measured: Of the data.
        message: What the parser has read of it.
    """
    # As many lines as fields, and one: the parser sees the end of the head where we do.
    lines = data.count(b"\n", 0, measured.body_at - 2)
    if message.chunked or message.upgrade or lines != len(message.raw_headers) + 1:
        return None
    fields = tuple(field for field in message.raw_headers if field[0].lower() != b"content-length")
    if len(fields) != len(message.raw_headers) - 1:
        return None
    version = (message.version.major, message.version.minor)
    head = read_head(message.method, message.path, version, fields, closes=message.should_close)
    return head if head.is_repeatable else None
