"""The reply to one client, written straight to its transport.

aiohttp's own response object frames and buffers; here a chunk that is already framed is passed on as it is. What must
live here: which bytes went out, and how a reply ends well or badly. What it must not know: Ollama, JSON, time.
"""

from __future__ import annotations

import functools
import http
import socket
import struct
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from proxy.edge.origins import names_vary, page_fields, reply_fields, without_cors
from proxy.wire.headers import LENGTH, Field, encode_fields, end_to_end, stream_fields
from proxy.wire.http1 import LAST_CHUNK, MouldedFields, chunk

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from proxy.wire.http1 import Mould, ReplyHead

# Of openings: one for each head that upstreams repeat, as a rule.
_REMEMBERED: Final = 128
# struct linger: on, for 0 seconds.
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


class ClientConnection(Protocol):
    """What the listening side hands in: one client's connection."""

    transport: asyncio.Transport | None
    on_writable: Callable[[bool], None] | None
    client: str
    peer: str
    local: str
    local_port: int
    begun: bool
    task: asyncio.Task[None] | None
    """In which the request is served that is served."""
    write: Callable[[bytes], None]
    """Takes nothing where the client has left."""

    @property
    def writing_paused(self) -> bool:
        """Whether the write buffer is above its mark, with what an earlier reply left in it for instance."""


class ClientReply:
    """One reply.

    Args:
        connection: The client's; its transport is ``None`` once it left.
        is_http11: An older client cannot read chunks: the end of the connection ends its body.
        is_head: No body is written.
        close: Say ``Connection: close``.

    Attributes:
        echo: The web page that is told that it may read the answer.
        unsent: A head that was held and has not gone yet.
        body_bytes: How much of the body went out, without framing.
        last_piece: The last of it, two bytes at least where there were as many.
    """

    __slots__ = (
        "_chunked",
        "_connection",
        "_is_head",
        "_is_http11",
        "body_bytes",
        "close",
        "echo",
        "ended",
        "failed",
        "last_piece",
        "started",
        "unsent",
    )

    def __init__(self, connection: ClientConnection, *, is_http11: bool, is_head: bool, close: bool) -> None:
        self._connection = connection
        self._is_http11 = is_http11
        self._is_head = is_head
        self._chunked = False
        self.last_piece = b""
        self.unsent = b""
        self.close = close or not is_http11
        self.echo: bytes | None = None
        self.started = False
        self.ended = False
        self.failed = False
        self.body_bytes = 0

    def __repr__(self) -> str:
        state = "ended" if self.ended else "started" if self.started else "waiting"
        return f"<ClientReply {state}, {self.body_bytes} bytes>"

    @property
    def tail(self) -> bytes:
        """The last bytes of the body that went out, at least two where there were as many."""
        return self.last_piece[-2:]

    @property
    def passes_chunks(self) -> bool:
        """Whether chunks that come framed go out as they are, with nothing else to be done."""
        return self._chunked and not self._is_head and not self.unsent and not self.ended

    @property
    def send(self) -> Callable[[bytes], None]:
        """Writes to the client, past everything that is noted here."""
        return self._connection.write

    def start(
        self,
        status: int,
        reason: bytes,
        fields: Sequence[Field],
        *,
        has_length: bool,
        has_body: bool = True,
        held: bool = False,
        answers_page: bool = False,
    ) -> None:
        """Write the head.

        Args:
            status: Of the reply.
            reason: Empty: the usual phrase.
            fields: End-to-end fields, a ``Content-Length`` among them where ``has_length``.
            has_length: Otherwise the body is chunked.
            has_body: False for 204 and 304.
            held: More follows in this turn of the event loop, or a :meth:`flush`: one write, and one wake-up of the
                client, for both. Ollama sends its head with the first frame.
            answers_page: The fields already have what a browser is told; otherwise only ``echo`` counts.
        """
        if not answers_page:
            fields = reply_fields(fields, self.echo)
        self._open(_start_line(status, reason), fields, has_length=has_length, has_body=has_body)
        if not held:
            self.flush()

    def start_like(self, head: ReplyHead, own: Sequence[Field], kind: bytes = b"") -> None:
        """Write the head of an upstream's reply whose body goes on piece by piece. It is held, see :meth:`start`.

        Args:
            head: The upstream's; what is meant for one hop and what it says about CORS stays here.
            own: What is added, and says nothing about CORS.
            kind: Stands in place of its ``Content-Type``; empty: that stays.
        """
        fields, echo = head.fields, self.echo
        if isinstance(fields, MouldedFields):
            opening = _remembered_opening(fields.mould, kind, echo is not None)
            text = opening.before
            if opening.after is not None:
                text = text + fields.date + opening.after
        else:
            opening = _opening(head, None, kind, echo is not None)
            text = opening.before
        if echo is not None:
            own = [*own, *page_fields(echo, varies=opening.varies)]
        self._open(text, own, has_length=opening.has_length, has_body=head.status not in (204, 304))

    def _open(self, opening: bytes, fields: Sequence[Field], *, has_length: bool, has_body: bool) -> None:
        """Have the head ready: what it begins with, these fields, and what is said of framing and connection."""
        end = b"\r\n\r\n"
        if not has_length and has_body and not self._is_head:
            if self._is_http11:
                self._chunked = True
                end = b"\r\nTransfer-Encoding: chunked\r\n\r\n"
            else:
                self.close = True
        if self.close:
            end = end[:-2] + b"Connection: close\r\n\r\n"
        self.started = self._connection.begun = True
        self.unsent = opening + encode_fields(fields) + end

    def flush(self) -> None:
        """Write a head that was held, where nothing has followed it yet."""
        if self.unsent:
            self._write(b"")

    def write(self, payload: bytes) -> None:
        """A piece of the body, without framing."""
        if payload:
            self.write_framed(chunk(payload) if self._chunked else payload, payload)

    def write_framed(self, raw: bytes, payload: bytes) -> None:
        """A piece of a chunked body with the framing that it came with."""
        if self._is_head:
            return
        self.note_sent(payload)
        data = raw if self._chunked else payload
        if self.unsent:
            data = self.unsent + data
            self.unsent = b""
        self._connection.write(data)

    def note_sent(self, payload: bytes) -> None:
        """A piece goes out, or went out past this."""
        size = len(payload)
        self.body_bytes += size
        self.last_piece = payload if size > 1 else self.last_piece[-1:] + payload

    def end(self) -> None:
        """The body is complete."""
        self.ended = True
        if self._chunked and not self._is_head:
            self._write(LAST_CHUNK)
        else:
            self.flush()

    def fail(self, frame: bytes, *, owed_bytes: int = 0, owes_line_end: bool = False) -> None:
        """The body cannot be completed: write an error frame and no last chunk.

        The connection is ended by :meth:`hang_up`, once everything about the call is noted: aiohttp cancels the
        handler of a connection that is gone.

        Args:
            frame: Closes what was cut and tells the error.
            owed_bytes: What is missing in a chunk of which a part is out: the frame's first bytes fill it, so that a
                reader that waits for the whole chunk sees them.
            owes_line_end: Only that chunk's line end is missing.
        """
        if self.ended:
            return
        self.ended = True
        self.failed = True
        self.close = True
        self.flush()
        if frame and self._chunked:
            filling = frame[:owed_bytes]
            rest = frame[owed_bytes:]
            is_full = len(filling) == owed_bytes
            if (owed_bytes and is_full) or owes_line_end:
                filling += b"\r\n"
            self._write(filling + (chunk(rest) if rest and is_full else b""))
        elif frame and not self._is_http11:
            self._write(frame)

    def hang_up(self) -> None:
        """End the connection of a reply that failed."""
        transport = self._connection.transport
        if transport is None:
            return
        if self._is_http11:
            transport.close()
        else:
            # To an older client the end of the connection is the end of the body; only a reset tells it otherwise.
            sock = transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            transport.abort()

    def abort(self) -> None:
        """Drop the connection with what is not yet written."""
        self.close = True
        if self._connection.transport is not None:
            self._connection.transport.abort()

    def _write(self, data: bytes) -> None:
        if self.unsent:
            data = self.unsent + data
            self.unsent = b""
        self._connection.write(data)


class Opening(NamedTuple):
    """Start line and fields of a head as clients get it, as far as they are the upstream's.

    Attributes:
        before: All of them; where a date is to be filled in, those up to it.
        after: What follows the date; ``None`` where none is to be filled in.
        has_length: There is a ``Content-Length`` among them.
        varies: There is a ``Vary`` among them.
    """

    before: bytes
    after: bytes | None
    has_length: bool
    varies: bool


def _opening(head: ReplyHead, date: Field | None, kind: bytes, has_page: bool) -> Opening:
    """Work out the opening of a reply that goes on piece by piece.

    Args:
        head: The upstream's.
        date: The one of its fields whose value is to be filled in.
        kind, has_page: See :meth:`ClientReply.start_like`; a page is told that it may read the answer.
    """
    has_length = head.keeps_length
    kept = end_to_end(with_type(head.fields, kind) if kind else head.fields, frozenset() if has_length else LENGTH)
    if head.is_stream:
        kept += stream_fields(kept)
    kept = without_cors(kept, for_page=has_page)
    line, varies = _start_line(head.status, head.reason), names_vary(kept)
    # Not where ``Connection`` names it away.
    at = next((at for at, field in enumerate(kept) if field is date), None)
    if at is None:
        return Opening(line + encode_fields(kept), None, has_length, varies)
    before, after = encode_fields(kept[:at]), encode_fields(kept[at + 1 :])
    return Opening(b"%b%b\r\nDate: " % (line, before), after, has_length, varies)


@functools.lru_cache(maxsize=_REMEMBERED)
def _remembered_opening(mould: Mould, kind: bytes, has_page: bool) -> Opening:
    head = mould.head
    return _opening(head, head.fields[mould.date_at], kind, has_page)


def with_type(fields: Sequence[Field], kind: bytes) -> list[Field]:
    """The fields with another ``Content-Type``.

    A stream says ``application/x-ndjson``, and where it fails before its first frame ``application/json``; a whole
    reply adds the charset in both cases (server/routes.go, ``streamResponse``; gin's ``c.JSON`` keeps what was set).
    """
    return [(field[0], kind) if field[0].lower() == b"content-type" else field for field in fields]


def _start_line(status: int, reason: bytes) -> bytes:
    return b"HTTP/1.1 %d %b" % (status, reason or _phrase(status))


def _phrase(status: int) -> bytes:
    try:
        return http.HTTPStatus(status).phrase.encode()
    except ValueError:
        return b""
