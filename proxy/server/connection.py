"""One client's connection: what arrives becomes requests, which are served one after the other.

aiohttp's parser in C reads the heads, follows the framing and fills the bodies; its own protocol around that is not
used, because a task that sleeps between two requests, a request object and a timer for each cost more than relaying
does (measured: 0.27 ms of a cold 1.4 until the first line of ours ran). What must live here: whose turn it is on this
connection, and how it ends. What it must not know: what is served, and how.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import HttpRequestParser
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.tcp_helpers import tcp_keepalive
from aiohttp.web import RequestPayloadError

from proxy.admission.ratelimit import client_of
from proxy.errors import BadRequest
from proxy.outlet import Outlet
from proxy.relay.call import Inbound, WholeBody
from proxy.relay.head import RequestHead, read_head
from proxy.relay.reply import ClientReply
from proxy.server.heads import Heads, Known, Measured, measure, repeatable
from proxy.wire.routes import Family
from proxy.wire.shapes import JSON_TYPE, error_body

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aiohttp import StreamReader
    from aiohttp.http_parser import RawRequestMessage

# A stalled upload costs twice this.
READ_BUFFER_BYTES: Final = 64 * 1024
# Reading on after an early answer, so that the client sees it before the connection resets.
LINGERING_S: Final = 2.0
# Requests that were sent ahead of their turn; beyond it nothing more is read.
_MOST_WAITING: Final = 32
# A call that is served watches its client itself and notes when it gives up; this is for what a finished one left.
_CALLS_OWN_LIMIT_S: Final = 1.0


class Serves(Protocol):
    """What answers requests (``relay.line``)."""

    async def serve(self, inbound: Inbound) -> ClientReply: ...


class Host(Protocol):
    """What a connection needs of the listening port."""

    relay: Serves
    heads: Heads
    clock: Callable[[], float]
    write_stall_s: float
    is_stopping: bool

    def on_error(self, what: str, error: BaseException | None) -> None: ...

    def opened(self, connection: Connection) -> None: ...

    def closed(self, connection: Connection) -> None: ...


class Received(NamedTuple):
    """A request that has not been served yet.

    Attributes:
        head: ``None`` for what is no request; the connection ends with the answer to it.
        body: May still be on its way.
        error: Why it is none.
        measured, lasting: What its head may be remembered by, and as.
        told_bytes: How long its body is, where a remembered head does not say it.
    """

    head: RequestHead | None
    body: StreamReader | WholeBody
    error: HttpProcessingError | None = None
    measured: Measured | None = None
    lasting: RequestHead | None = None
    told_bytes: int | None = None


class Connection(BaseProtocol):
    """One client's connection.

    Attributes:
        on_writable: Told when the write buffer rises above its mark (False) and falls below it (True).
        lost: Resolves when the connection is gone; made by who wants to wait for that.
        client: Who is at the other end, for turns and limits.
        peer, local, local_port: Addresses of the two ends.
        begun: A reply has begun to the request that is served, or to the last one.
        head_received: When the first byte of the request that is served, or of the next one, arrived.
        idle_since: When the last request was over.
        task: Of the request that is served.
        write: The only way to send something.
    """

    __slots__ = (
        "_body",
        "_host",
        "_is_deaf",
        "_known",
        "_owed_bytes",
        "_stall_timer",
        "_waiting",
        "begun",
        "client",
        "head_received",
        "idle_since",
        "local",
        "local_port",
        "lost",
        "on_writable",
        "peer",
        "task",
        "write",
    )

    def __init__(self, host: Host, loop: asyncio.AbstractEventLoop) -> None:
        parser = HttpRequestParser(
            self,
            loop,
            READ_BUFFER_BYTES,
            payload_exception=RequestPayloadError,
            auto_decompress=False,
            max_msg_queue_size=_MOST_WAITING,
        )
        super().__init__(loop, parser)
        self._host = host
        self._waiting: deque[Received] = deque()
        self._body: StreamReader | WholeBody = EMPTY_PAYLOAD
        # Of the request that the parser is in; 0 between two of them, None where that is not known any more.
        self._owed_bytes: int | None = 0
        self._is_deaf = False
        # A client has one head, or a few.
        self._known: Known | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self.task: asyncio.Task[None] | None = None
        self.lost: asyncio.Future[None] | None = None
        self.on_writable: Callable[[bool], None] | None = None
        self.head_received: float | None = None
        self.idle_since = host.clock()
        self.client = self.peer = self.local = ""
        self.local_port = 0
        self.begun = False
        self.write: Callable[[bytes], None] = _nowhere

    def __repr__(self) -> str:
        state = "lost" if self.is_lost else "idle" if self.task is None else "serving"
        return f"<Connection {self.client} {state}, {len(self._waiting)} waiting>"

    @property
    def is_lost(self) -> bool:
        return self.transport is None

    # --- what arrives

    def data_received(self, data: bytes) -> None:
        if self._is_deaf:
            return
        measured = head = None
        if self.task is None and data:
            if self.head_received is None:
                self.head_received = self._host.clock()
            if self._owed_bytes == 0:
                if self._known is not None and self._begin_known(self._known, data):
                    return
                measured = measure(data)
                known = None if measured is None else self._host.heads.find(measured)
                if known is not None:
                    self._known, head = known, known.head
                    if self._begin_known(known, data):
                        return
        self._parse(data, measured, head)

    def _begin_known(self, known: Known, data: bytes) -> bool:
        """Serve a request with a head that was read before; False: it is another one, or not all of it is here."""
        body = known.body_of(data)
        if body is None:
            return False
        self._begin(Received(known.head, WholeBody(body)))
        return True

    def _parse(self, data: bytes, measured: Measured | None, read: RequestHead | None) -> None:
        messages: Sequence[tuple[RawRequestMessage, StreamReader]]
        try:
            messages, is_upgraded, _ = self._parser.feed_data(data)  # type: ignore[union-attr]
        except HttpProcessingError as error:
            self._refuse(error)
            return
        # What follows a request for another protocol is not read as requests, and the connection ends with it.
        self._is_deaf = is_upgraded
        lasting = self._follow(data, measured, read, messages)
        for message, body in messages:
            told_bytes = measured.size_bytes - measured.body_at if read and measured else None
            self._waiting.append(Received(read or _head_of(message), body, None, measured, lasting, told_bytes))
            # What came behind it is another request.
            read = None
        if self.task is None and self._waiting:
            self._begin_next()
        if len(self._waiting) >= _MOST_WAITING and not self._buffer_paused:
            self._pause_reading_for_buffer()

    def _refuse(self, error: HttpProcessingError) -> None:
        """What came is no request, or no body: nothing is read after it."""
        self._is_deaf = True
        body = self._waiting[-1].body if self._waiting else self._body
        if body.is_eof() or isinstance(body, WholeBody):
            self._waiting.append(Received(None, EMPTY_PAYLOAD, error))
            if self.task is None:
                self._begin_next()
            return
        # Not its end too: whoever reads would take what has come for all of it.
        body.set_exception(BadRequest("the request's body is malformed"))

    def _follow(
        self,
        data: bytes,
        measured: Measured | None,
        read: RequestHead | None,
        messages: Sequence[tuple[RawRequestMessage, StreamReader]],
    ) -> RequestHead | None:
        """Know whether the parser is between two requests; the head that may be remembered of this one."""
        lasting = None
        if measured is not None and len(messages) == 1:
            if read is None:
                lasting = repeatable(data, measured, messages[0][0])
            owed = measured.size_bytes - len(data)
            self._owed_bytes = None if (read or lasting) is None or owed < 0 else owed
        elif data:
            owed = (self._owed_bytes or 0) - len(data)
            self._owed_bytes = None if owed < 0 or messages else owed
        return lasting

    # --- requests, one after the other

    def _begin_next(self) -> None:
        """Serve the one that has waited longest."""
        self._begin(self._waiting.popleft())
        if self._parser is not None:
            self._parser.message_consumed()
        if self._buffer_paused and len(self._waiting) <= _MOST_WAITING // 2:
            # What the parser has kept, while reading still counts as paused.
            self.data_received(b"")
            if len(self._waiting) < _MOST_WAITING:
                self._resume_reading_for_buffer()

    def _begin(self, received: Received) -> None:
        self._body = received.body
        self.begun = False
        self.task = self._loop.create_task(self._serve(received))

    async def _serve(self, received: Received) -> None:
        is_kept = False
        try:
            is_kept = await self._answer(received) and not self._host.is_stopping
            if not received.body.is_eof():
                is_kept = await self._read_on(received.body) and is_kept
        finally:
            self.task = self.head_received = None
            self._body = EMPTY_PAYLOAD
            if is_kept and not self.is_lost:
                self._go_on()
            elif self.transport is not None:
                self._is_deaf = True
                self.transport.close()

    async def _answer(self, received: Received) -> bool:
        """Answer; whether the connection may be kept."""
        head = received.head
        if head is None:
            self._fail(received, 400, received.error)
            return False
        received_at = self._host.clock() if self.head_received is None else self.head_received
        try:
            reply = await self._host.relay.serve(Inbound(head, received.body, self, received_at, received.told_bytes))
        except Exception as error:
            # Whatever it is, the client is answered and told nothing of it.
            self._fail(received, 500, error)
            return False
        if received.lasting is not None and received.measured is not None and head.grant is not None:
            self._host.heads.remember(received.measured, received.lasting)
        return not reply.close

    async def _read_on(self, body: StreamReader | WholeBody) -> bool:
        """Read what is left of a body that nobody wanted, for a while; whether its end came."""
        try:
            async with asyncio.timeout(LINGERING_S):
                while not body.is_eof():
                    await body.readany()
        except (TimeoutError, ConnectionError, BadRequest, RequestPayloadError):
            return False
        return True

    def _go_on(self) -> None:
        if self._waiting:
            self._begin_next()
        else:
            self.idle_since = self._host.clock()

    def _fail(self, received: Received, status: int, error: BaseException | None) -> None:
        """Answer what is no request, or one on which we failed, and say nothing of what it was."""
        self._host.on_error("malformed request" if status < 500 else "unhandled error", error)
        if status >= 500 and self.begun:
            # Something is out already: nothing but the end of the connection would be right.
            self.abort()
        head = received.head
        family = Family.API if head is None else head.route.family
        body = error_body(family, status, "the request is malformed" if status < 500 else "internal error")
        fields = [
            (b"Content-Type", JSON_TYPE),
            (b"Content-Length", b"%d" % len(body)),
            (b"X-Pilotlight-Error", b"bad_request" if status < 500 else b"internal"),
        ]
        is_head = head is not None and head.method == "HEAD"
        reply = ClientReply(self, is_http11=True, is_head=is_head, close=True)
        reply.start(status, b"", fields, has_length=True, held=True)
        reply.write(body)
        reply.end()

    # --- the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self.transport is not None:
            tcp_keepalive(self.transport)
            self.write = Outlet(self.transport).write
        peer = transport.get_extra_info("peername")
        here = transport.get_extra_info("sockname")
        self.peer = str(peer[0]) if peer else ""
        self.local, self.local_port = (str(here[0]), int(here[1])) if here else ("", 0)
        self.client = client_of(self.peer, "", b"")
        self._host.opened(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._stop_stall_timer()
        self._waiting.clear()
        super().connection_lost(exc)
        self._parser = None
        self.write = _nowhere
        self._is_deaf = True
        if self.task is not None:
            if not self._body.is_eof() and not isinstance(self._body, WholeBody):
                self._body.set_exception(ConnectionResetError("the client has left"))
            self.task.cancel()
        self._host.closed(self)
        if self.lost is not None and not self.lost.done():
            self.lost.set_result(None)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._host.write_stall_s:
            self._stall_timer = self._loop.call_later(self._host.write_stall_s + _CALLS_OWN_LIMIT_S, self.abort)
        if self.on_writable is not None:
            self.on_writable(False)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_stall_timer()
        if self.on_writable is not None:
            self.on_writable(True)

    def _stop_stall_timer(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    # --- for the listening port

    def close(self) -> None:
        """End it, once what was written is taken; what is served is cancelled."""
        self._is_deaf = True
        if self.task is not None:
            self.task.cancel()
        if self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        """Drop it with what its client has not taken."""
        if self.transport is not None:
            self.transport.abort()


def _nowhere(data: bytes) -> None:
    """There is no connection yet, or none any more."""


def _head_of(message: RawRequestMessage) -> RequestHead:
    version = (message.version.major, message.version.minor)
    return read_head(message.method, message.path, version, message.raw_headers, closes=message.should_close)
