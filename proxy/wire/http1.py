"""Reading the head of an HTTP/1.1 reply and following chunked framing, on bytes, without input or output.

Strict about what it accepts, because a reply that is read differently here than it was meant leaks into the next one
on the same connection (RFC 9112 sections 5, 6.3, 7.1, 11.2). aiohttp's own parser serves every other use.
"""

from __future__ import annotations

import functools
import re
import string
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple, overload

from proxy.wire.headers import Field

MAX_HEAD_BYTES: Final = 64 * 1024
_MAX_SIZE_LINE_BYTES: Final = 256
_MAX_TRAILER_BYTES: Final = 8 * 1024

_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: ([\t\x20-\x7e\x80-\xff]*))?")
_FIELD_LINE = re.compile(
    rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*((?:[^\x00-\x08\x0a-\x1f\x7f]*[^\x00-\x20\x7f])?)[ \t]*"
)
_SIZE_LINE = re.compile(rb"([0-9a-fA-F]{1,15})[ \t]*(?:;[^\r\n]*)?")
_DIGITS = re.compile(rb"[0-9]{1,18}")
# IMF-fixdate (RFC 9110 section 5.6.7), as Go's net/http and nearly all others write it. It has this shape once each
# digit is a 0, each capital an A and each small letter an a; a regular expression takes twice as long to see that.
_DATE: Final = b"\r\nDate: "
_TO_SHAPE: Final = bytes.maketrans(
    (string.digits + string.ascii_uppercase + string.ascii_lowercase).encode(), b"0" * 10 + b"A" * 26 + b"a" * 26
)
_DATE_SHAPE: Final = b"Aaa, 00 Aaa 0000 00:00:00 AAA"
_SOME_DATE: Final = b"Thu, 01 Jan 1970 00:00:00 GMT"
_DATE_BYTES: Final = len(_SOME_DATE)
# What an upstream may make us remember of heads is this much, times the number.
_REMEMBERED_BYTES: Final = 1024
_REMEMBERED: Final = 64
# Payloads of chunks that are known at sight.
_MOST_PLAIN_BYTES: Final = 1023


class ProtocolError(Exception):
    """The peer did not speak HTTP/1.1 as it must."""


class Mould:
    """What heads have in common that are the same, byte for byte, but for the value of ``Date``: one object for all.

    So whatever does not depend on that value can be worked out once and remembered under this.

    Attributes:
        head: One of them.
        date_at: Where ``Date`` stands among the fields.
    """

    __slots__ = ("_after_fields", "_before_fields", "date_at", "head")

    def __init__(self, head: ReplyHead, date_at: int) -> None:
        self.head = head
        self.date_at = date_at
        self._before_fields, self._after_fields = head[:2], head[3:]

    def __repr__(self) -> str:
        return f"<Mould {self.head.status}, {len(self.head.fields)} fields>"

    def cast(self, date: bytes) -> ReplyHead:
        """The head with this date."""
        fields = MouldedFields()
        fields.mould = self
        fields.date = date
        # Past the constructor: a call more, with seven arguments, that every first token would wait for.
        return tuple.__new__(ReplyHead, (*self._before_fields, fields, *self._after_fields))


class MouldedFields(Sequence[Field]):
    """The fields of a head that was cast in a mould, put together only for who looks at them.

    It is they who know the mould and not the head, so that a head that is made of another one cannot have a wrong one.

    Attributes:
        mould: Theirs.
        date: The value of ``Date``.
    """

    __slots__ = ("date", "mould")
    date: bytes
    mould: Mould

    def __repr__(self) -> str:
        return repr(self._all())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, tuple | MouldedFields) and self._all() == tuple(other)

    def __hash__(self) -> int:
        return hash(self._all())

    def __len__(self) -> int:
        return len(self.mould.head.fields)

    def __iter__(self) -> Iterator[Field]:
        return iter(self._all())

    @overload
    def __getitem__(self, index: int) -> Field: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Field]: ...
    def __getitem__(self, index: int | slice) -> Field | Sequence[Field]:
        return self._all()[index]

    def _all(self) -> tuple[Field, ...]:
        fields, at = self.mould.head.fields, self.mould.date_at
        return (*fields[:at], (b"Date", self.date), *fields[at + 1 :])


class ReplyHead(NamedTuple):
    """The head of a final reply.

    Attributes:
        status: 200 to 599.
        reason: As sent, may be empty.
        fields: As sent, in order.
        chunked: The body is chunked.
        length_bytes: Of the body; ``None`` when it is chunked or ends with the connection.
        reusable: The connection may carry another request afterwards.
        content_type: Lower case, without parameters.
    """

    status: int
    reason: bytes
    fields: Sequence[Field]
    chunked: bool
    length_bytes: int | None
    reusable: bool
    content_type: bytes

    @property
    def is_stream(self) -> bool:
        """Whether frames follow, the last of which tells that it is; an error has none, whatever its type says."""
        return self.status == 200 and self.content_type in (b"application/x-ndjson", b"text/event-stream")

    @property
    def keeps_length(self) -> bool:
        """Whether a client may be told the length: not a stream's, which may have to end in an error of ours."""
        return self.length_bytes is not None and not self.is_stream


def parse_head(head: bytes) -> ReplyHead | None:
    """Parse the bytes up to, and without, the blank line.

    Returns:
        The head, or ``None`` for an interim (1xx) reply, which is read and dropped.

    Raises:
        ProtocolError: Anything that RFC 9112 forbids a sender, or that has two readings.
    """
    # Ollama sends the same head with every stream, but for the date: to read it anew took a third of the way from its
    # first bytes to the client.
    before, _, rest = head.partition(_DATE)
    date = rest[:_DATE_BYTES]
    if date.translate(_TO_SHAPE) != _DATE_SHAPE or not date.endswith(b"GMT"):
        return _parsed(head)
    try:
        mould = _mould(before, rest[_DATE_BYTES:])
    except _OneOff:
        return _parsed(head)
    return None if mould is None else mould.cast(date)


class _OneOff(Exception):
    """A head that is not to be remembered."""


@functools.lru_cache(maxsize=_REMEMBERED)
def _mould(before: bytes, after: bytes) -> Mould | None:
    """The mould of heads with this in front of ``Date`` and behind its value; ``None`` of interim ones.

    Raises:
        _OneOff: There is a cookie in it, or it is too long, or that was not all of the value.
        ProtocolError: As :func:`parse_head`.
    """
    if after and not after.startswith(b"\r\n"):
        raise _OneOff
    whole = before + _DATE + _SOME_DATE + after
    if len(whole) > _REMEMBERED_BYTES or b"set-cookie" in whole.lower():
        raise _OneOff
    head = _parsed(whole)
    # As many line ends in front of it as fields: the status line has none before it.
    return None if head is None else Mould(head, before.count(b"\r\n"))


def _parsed(head: bytes) -> ReplyHead | None:
    lines = head.split(b"\r\n")
    status_line = _STATUS_LINE.fullmatch(lines[0])
    if status_line is None:
        raise ProtocolError("malformed status line")
    status = int(status_line[2])
    fields = tuple(_field(line) for line in lines[1:])
    if status < 200:
        if status == 101:
            raise ProtocolError("unexpected upgrade")
        return None
    return _framed(status, status_line[3] or b"", status_line[1] == b"1", fields)


def _field(line: bytes) -> Field:
    match = _FIELD_LINE.fullmatch(line)
    if match is None:
        raise ProtocolError("malformed header field")
    return match[1], match[2]


def _framed(status: int, reason: bytes, is_http11: bool, fields: tuple[Field, ...]) -> ReplyHead:
    lengths: set[bytes] = set()
    codings: list[bytes] = []
    reusable = is_http11
    content_type = b""
    for name, value in fields:
        lower = name.lower()
        if lower == b"content-length":
            lengths.add(value)
        elif lower == b"transfer-encoding":
            codings.append(value.lower())
        elif lower == b"connection":
            reusable = reusable and b"close" not in value.lower()
        elif lower == b"content-type" and not content_type:
            content_type = value.partition(b";")[0].strip().lower()
    if codings and (codings != [b"chunked"] or lengths or not is_http11):
        raise ProtocolError("ambiguous framing")
    if len(lengths) > 1:
        raise ProtocolError("two lengths")
    length = _length(lengths)
    if status in (204, 304):
        codings, length = [], 0
    reusable = reusable and (bool(codings) or length is not None)
    return ReplyHead(status, reason, fields, bool(codings), length, reusable, content_type)


def _length(lengths: set[bytes]) -> int | None:
    if not lengths:
        return None
    (text,) = lengths
    if _DIGITS.fullmatch(text) is None:
        raise ProtocolError("malformed length")
    return int(text)


class ChunkFollower:
    """Follows chunked framing through a stream that is cut anywhere.

    Attributes:
        is_between_chunks: Everything so far was whole chunks.
        owed_bytes: How much of the chunk whose size line was already returned is still to come.
        owes_line_end: Its data are complete, its line end was not yet returned.
        done: The last chunk and the trailer were read.
        surplus: Bytes after the end; a peer that sends them is not reused.
    """

    __slots__ = (
        "_held",
        "_in_trailer",
        "_pieces",
        "_raw",
        "done",
        "is_between_chunks",
        "owed_bytes",
        "owes_line_end",
        "surplus",
    )

    def __init__(self) -> None:
        self._held = b""
        self._in_trailer = False
        self.is_between_chunks = True
        self._pieces: list[bytes] = []
        self._raw: list[bytes] = []
        self.owed_bytes = 0
        self.owes_line_end = False
        self.done = False
        self.surplus = b""

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Take what arrived.

        Returns:
            ``(raw, payload)``: the same bytes with and without framing. A size line that is not complete is kept
            back until it is; the last chunk and the trailer are never returned, so that the caller decides how a
            body ends.

        Raises:
            ProtocolError: The framing is broken.
        """
        if self.is_between_chunks and (payload := whole_chunk(data)):
            return data, payload
        return self._walk(data)

    def _walk(self, data: bytes) -> tuple[bytes, bytes]:
        if self._held:
            data = self._held + data
            self._held = b""
        self._pieces, self._raw = [], []
        owed = self.owed_bytes, self.owes_line_end
        position = 0
        try:
            while position < len(data) and not self.done:
                if self._in_trailer:
                    position = self._trailer(data, position)
                elif self.owed_bytes:
                    position = self._take(data, position)
                elif self.owes_line_end:
                    position = self._line_end(data, position)
                else:
                    position = self._size_line(data, position)
        except ProtocolError:
            # Nothing of these bytes is returned, so the open chunk is still owed what it was owed before them.
            self.owed_bytes, self.owes_line_end = owed
            raise
        self.is_between_chunks = not (self._held or self.owed_bytes or self.owes_line_end or self._in_trailer)
        if self.done:
            self.surplus = data[position:]
        return b"".join(self._raw), b"".join(self._pieces)

    def _take(self, data: bytes, position: int) -> int:
        piece = data[position : position + self.owed_bytes]
        self._pieces.append(piece)
        self._raw.append(piece)
        self.owed_bytes -= len(piece)
        self.owes_line_end = self.owed_bytes == 0
        return position + len(piece)

    def _line_end(self, data: bytes, position: int) -> int:
        end = data[position : position + 2]
        if end == b"\r":
            return self._hold(data, position)
        if end != b"\r\n":
            raise ProtocolError("a chunk without its line end")
        self._raw.append(end)
        self.owes_line_end = False
        return position + 2

    def _size_line(self, data: bytes, position: int) -> int:
        end = data.find(b"\r\n", position)
        if end < 0:
            if len(data) - position > _MAX_SIZE_LINE_BYTES:
                raise ProtocolError("a chunk size line is too long")
            return self._hold(data, position)
        match = _SIZE_LINE.fullmatch(data, position, end)
        if match is None:
            raise ProtocolError("malformed chunk size")
        size = int(match[1], 16)
        if size == 0:
            self._in_trailer = True
            return end + 2
        self._raw.append(data[position : end + 2])
        self.owed_bytes = size
        return end + 2

    def _trailer(self, data: bytes, position: int) -> int:
        end = data.find(b"\r\n", position)
        if end < 0:
            if len(data) - position > _MAX_TRAILER_BYTES:
                raise ProtocolError("the trailer is too long")
            return self._hold(data, position)
        if end == position:
            self.done = True
        return end + 2

    def _hold(self, data: bytes, position: int) -> int:
        self._held = data[position:]
        return len(data)


def whole_chunk(data: bytes) -> bytes:
    """The payload of what is exactly one chunk, plainly spelt, as nearly every token is; b"" of anything else."""
    size = len(data)
    if size < len(CHUNK_STARTS) and data.startswith(CHUNK_STARTS[size]) and data[-2:] == b"\r\n":
        return data[len(CHUNK_STARTS[size]) : -2]
    return b""


def chunk(payload: bytes) -> bytes:
    """One chunk around a payload that is not empty."""
    return b"%x\r\n%b\r\n" % (len(payload), payload)


LAST_CHUNK: Final = b"0\r\n\r\n"


def _chunk_starts() -> tuple[bytes, ...]:
    size_lines = ((size, b"%x\r\n" % size) for size in range(1, _MOST_PLAIN_BYTES + 1))
    starts = {len(line) + size + 2: line for size, line in size_lines}
    return tuple(starts.get(length, b"0" * (length + 1)) for length in range(max(starts) + 1))


CHUNK_STARTS: Final = _chunk_starts()
"""How a whole chunk that is so many bytes long begins in the plain spelling, or something longer where none is: nearly
every token's chunk is known with one comparison."""
