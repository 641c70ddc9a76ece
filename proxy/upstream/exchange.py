"""One connection to Ollama, and one exchange on it at a time: the hot path's own client.

Bytes go from the socket into a *sink* without a task switch, a queue or new framing. What must live here: reading the
head, following the framing, knowing the end. What it must not know: what is in a body, who the client is.

Everything that is not a generation on an ``http://`` upstream goes through aiohttp's client (``general``).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, cast

from proxy.errors import PilotlightError, UpstreamBroken
from proxy.outlet import Outlet
from proxy.wire.headers import Field, encode
from proxy.wire.http1 import MAX_HEAD_BYTES, ChunkFollower, ProtocolError, ReplyHead, chunk, parse_head

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

CUT_MESSAGE: Final = "upstream connection lost before completion"


class UpstreamRequest(NamedTuple):
    """A request with its whole body.

    Attributes:
        method: As the client sent it.
        target: Path and query, still percent-encoded.
        own_fields: All of the head, ``Host`` and ``Content-Length`` included, but what is in ``lines``.
        body: May be empty.
        lines: Fields that go before these and are written already, each with a line end before it.
    """

    method: str
    target: str
    own_fields: Sequence[Field]
    body: bytes
    lines: bytes = b""

    @property
    def fields(self) -> list[Field]:
        """All of them."""
        written = [line.partition(b": ") for line in self.lines.split(b"\r\n")[1:]]
        return [*((name, value) for name, _, value in written), *self.own_fields]

    def encode(self) -> bytes:
        start = f"{self.method} {self.target} HTTP/1.1".encode("latin-1")
        return encode(start + self.lines, self.own_fields) + self.body


class NoReply(UpstreamBroken):
    """The connection ended before one byte of a reply came.

    On a connection that was used before, Ollama may have closed it while the request was on its way (RFC 9112
    section 9.3.1): such a request may be sent once more, on a fresh one.
    """


class Sink(Protocol):
    """Takes one reply as it arrives. Called on the event loop, in order, from the socket's own callback."""

    def on_head(self, head: ReplyHead) -> None:
        """The final head. Called once, before everything else."""

    def on_body(self, raw: bytes, payload: bytes) -> None:
        """A piece of the body: as it was framed, and without framing.

        Both are the same where the head ``keeps_length``. What else came without chunks is framed as one.
        """

    def on_end(self) -> None:
        """The body is complete."""

    def on_failure(self, error: PilotlightError) -> None:
        """The exchange failed; ``on_head`` may or may not have been called. Nothing follows."""


class Flow(Protocol):
    """One reply on its way to a sink, as far as whoever gets it steers it."""

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def abort(self) -> None:
        """Stop: the sink is not called any more. Safe to call at any time."""

    def take_whole_chunks(self, sink: Sink, lane: Callable[[bytes], bool]) -> None:
        """Offer what is read between two chunks to this, before the sink; where others stand before it, nothing.

        What came with the head is offered within this call, where it is called from within ``on_head``.
        """

    @property
    def open_chunk(self) -> tuple[int, bool]:
        """``(owed_bytes, owes_line_end)`` of the chunk of which a part is out."""


# Plain numbers: before Python 3.12 a look at an enumeration's member is a call of its own, and there is one per token.
_IDLE: Final = 0
_HEAD: Final = 1
_CHUNKED: Final = 2
_COUNTED: Final = 3
_UNTIL_CLOSE: Final = 4
_CLOSED: Final = 5
_PHASES: Final = ("idle", "head", "chunked", "counted", "until_close", "closed")


class UpstreamConnection(asyncio.Protocol):
    """A pooled connection.

    Args:
        on_free: Called when an exchange ended and the connection may carry another.
        on_closed: Called once when the connection is gone.
    """

    __slots__ = (
        "_chunks",
        "_has_answered",
        "_head_bytes",
        "_keeps_length",
        "_lane",
        "_lane_of_reply",
        "_on_closed",
        "_on_free",
        "_phase",
        "_remaining_bytes",
        "_rest",
        "_reusable",
        "_sink",
        "_transport",
        "_write",
        "exchanges",
        "idle_since",
    )

    def __init__(
        self,
        on_free: Callable[[UpstreamConnection], None],
        on_closed: Callable[[UpstreamConnection], None],
    ) -> None:
        self._on_free = on_free
        self._on_closed = on_closed
        self._transport: asyncio.Transport | None = None
        self._write: Callable[[bytes], None]
        self._sink: Sink | None = None
        # Set between two chunks only.
        self._lane: Callable[[bytes], bool] | None = None
        self._lane_of_reply: Callable[[bytes], bool] | None = None
        self._phase = _IDLE
        self._head_bytes = b""
        # Chunks that came with the head, while the sink is told of that.
        self._rest = b""
        self._has_answered = False
        self._chunks = ChunkFollower()
        self._remaining_bytes = 0
        self._keeps_length = True
        self._reusable = False
        self.exchanges = 0
        self.idle_since = 0.0

    def __repr__(self) -> str:
        return f"<UpstreamConnection {_PHASES[self._phase]}, {self.exchanges} exchanges>"

    @property
    def is_idle(self) -> bool:
        return self._phase == _IDLE and self._transport is not None and not self._transport.is_closing()

    def carries(self, sink: Sink) -> bool:
        """Whether this connection's exchange is still that sink's."""
        return self._sink is sink

    def start(self, request: bytes, sink: Sink) -> None:
        """Send a request and give its reply to a sink.

        Args:
            request: Head and body.
            sink: Gets the reply. After :meth:`abort` it is not called any more.
        """
        if self._transport is None or self._phase != _IDLE:
            raise RuntimeError(f"{self!r} cannot take a request")
        self._sink = sink
        self._lane = self._lane_of_reply = None
        self._phase = _HEAD
        self._head_bytes = b""
        self._has_answered = False
        self.exchanges += 1
        self._write(request)

    def take_whole_chunks(self, lane: Callable[[bytes], bool]) -> None:
        """Offer everything that is read between two chunks to this, before the sink; it says whether it took it.

        So what came with the head is offered at once.
        """
        if self._phase != _CHUNKED:
            return
        self._lane_of_reply = lane
        if self._chunks.is_between_chunks:
            self._lane = lane
        # Nobody is offered it twice, whatever is called from within the lane.
        rest, self._rest = self._rest, b""
        if rest and not lane(rest):
            self._rest = rest

    def abort(self) -> None:
        """End the exchange by closing the connection: the only way to tell Ollama to stop (server/routes.go)."""
        self._sink = self._lane = self._lane_of_reply = None
        self._close()

    def pause_reading(self) -> None:
        """Stop taking bytes, because the client does not take them; idempotent."""
        if self._transport is not None and not self._transport.is_closing() and self._transport.is_reading():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._transport is not None and not self._transport.is_closing() and not self._transport.is_reading():
            self._transport.resume_reading()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._write = Outlet(self._transport).write

    def data_received(self, data: bytes) -> None:
        lane = self._lane
        if lane is not None and lane(data):
            return
        phase = self._phase
        try:
            if phase == _CHUNKED:
                chunks = self._chunks
                raw, payload = chunks.feed(data)
                if raw and self._sink is not None:
                    self._sink.on_body(raw, payload)
                self._lane = self._lane_of_reply if chunks.is_between_chunks else None
                if chunks.done:
                    self._finish(chunks.surplus)
            elif phase == _HEAD:
                self._feed_head(data)
            elif phase == _COUNTED:
                self._feed_counted(data)
            elif phase == _UNTIL_CLOSE:
                # The end of the connection ends this body, and cannot end the client's: it is framed anew.
                self._deliver(chunk(data), data)
            else:
                # Bytes that nobody asked for: whatever they are, they must not be read as the next reply.
                self._close()
        except (ProtocolError, ValueError) as error:
            self._fail(UpstreamBroken(f"the upstream's reply is malformed: {error}"))

    def eof_received(self) -> bool | None:
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        phase, self._phase = self._phase, _CLOSED
        sink, self._sink = self._sink, None
        self._lane = self._lane_of_reply = None
        self._transport = None
        if sink is not None:
            if phase == _UNTIL_CLOSE and exc is None:
                sink.on_end()
            elif phase == _HEAD and not self._has_answered:
                sink.on_failure(NoReply("the upstream closed the connection without a reply"))
            else:
                sink.on_failure(UpstreamBroken(CUT_MESSAGE))
        self._on_closed(self)

    def _feed_head(self, data: bytes) -> None:
        self._has_answered = True
        if self._head_bytes:
            data = self._head_bytes + data
        while True:
            text, end, rest = data.partition(b"\r\n\r\n")
            if len(text) > MAX_HEAD_BYTES:
                raise ProtocolError("the head is too large")
            if not end:
                self._head_bytes = data
                return
            head = parse_head(text)
            if head is not None:
                break
            data = rest
        self._begin_body(head, rest)

    def _begin_body(self, head: ReplyHead, rest: bytes) -> None:
        self._reusable = head.reusable
        if head.chunked:
            self._phase = _CHUNKED
            self._rest = rest
        elif head.length_bytes is None:
            self._phase = _UNTIL_CLOSE
        else:
            self._phase = _COUNTED
            self._remaining_bytes = head.length_bytes
            self._keeps_length = head.keeps_length
        if self._sink is not None:
            self._sink.on_head(head)
        if self._phase == _COUNTED:
            self._feed_counted(rest)
            return
        if head.chunked:
            rest, self._rest = self._rest, b""
        if rest:
            self.data_received(rest)

    def _feed_counted(self, data: bytes) -> None:
        piece = data[: self._remaining_bytes]
        self._remaining_bytes -= len(piece)
        if piece:
            self._deliver(piece if self._keeps_length else chunk(piece), piece)
        if self._remaining_bytes == 0:
            self._finish(data[len(piece) :])

    def _deliver(self, raw: bytes, payload: bytes) -> None:
        if self._sink is not None:
            self._sink.on_body(raw, payload)

    def _finish(self, surplus: bytes) -> None:
        sink, self._sink = self._sink, None
        self._lane = self._lane_of_reply = None
        if sink is None:
            return
        self._phase = _IDLE
        if surplus or not self._reusable:
            self._close()
            sink.on_end()
            return
        # Not when the next reply begins, which somebody waits for.
        self._chunks = ChunkFollower()
        # A client that stalled may have paused us at the very end.
        self.resume_reading()
        self._on_free(self)
        sink.on_end()

    def _fail(self, error: PilotlightError) -> None:
        sink, self._sink = self._sink, None
        self._lane = self._lane_of_reply = None
        self._close()
        if sink is not None:
            sink.on_failure(error)

    def _close(self) -> None:
        self._phase = _CLOSED
        if self._transport is not None:
            self._transport.abort()

    @property
    def open_chunk(self) -> tuple[int, bool]:
        """``(owed_bytes, owes_line_end)`` of the chunk that was being relayed, for ending it after a cut."""
        return self._chunks.owed_bytes, self._chunks.owes_line_end
