"""The listening port: aiohttp's low-level server, which parses requests and manages connections.

``web.Server`` rather than ``web.Application``: an application decodes paths, sends ``100 Continue`` by itself and
adds headers of its own. Replies are written by ``relay.reply``; aiohttp is only told that they are.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any, Final, cast

from aiohttp import http_parser, web
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web_protocol import RequestHandler, _ErrInfo

from proxy.admission.ratelimit import client_of
from proxy.errors import BadRequest
from proxy.relay.call import DEADLINES, Inbound
from proxy.relay.reply import ClientReply
from proxy.wire.routes import Family, classify
from proxy.wire.shapes import JSON_TYPE, error_body

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp.abc import AbstractStreamWriter

    from proxy.relay.call import Deadlines
    from proxy.relay.line import Relay

# Silence before the first byte of a request, and between two requests.
KEEPALIVE_TIMEOUT_S: Final = 75.0
HEAD_TIMEOUT_S: Final = DEADLINES.head_s
# A stalled upload costs twice this.
READ_BUFFER_BYTES: Final = 64 * 1024
# Reading on after an early answer, so that the client sees it before the connection resets.
LINGERING_S: Final = 2.0
BACKLOG: Final = 2048
# A call that is served watches its client itself and notes when it gives up; this is for what a finished one left.
_CALLS_OWN_LIMIT_S: Final = 1.0


class WrittenReply(web.StreamResponse):
    """Tells aiohttp that the reply is out already."""

    def __init__(self, *, keep_alive: bool) -> None:
        super().__init__()
        self._keeps_alive = keep_alive

    @property
    def keep_alive(self) -> bool:
        return self._keeps_alive

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        return None

    async def write_eof(self, data: Any = b"") -> None:
        return None


class Connection(RequestHandler):
    """One client's connection.

    Attributes:
        on_writable: Told when the write buffer rises above its mark (False) and falls below it (True).
        lost: Resolves when the connection is gone; made by who wants to wait for that.
        client: Who is at the other end, for turns and limits.
        peer, local, local_port: Addresses of the two ends.
        begun: A reply has begun to the request that is served, or to the last one.
        head_received: When the first byte of the request that is served, or of the next one, arrived.
    """

    __slots__ = (
        "_stall_timer",
        "_wire",
        "begun",
        "client",
        "clock",
        "head_received",
        "local",
        "local_port",
        "lost",
        "on_error",
        "on_writable",
        "peer",
        "serving",
        "write_stall_s",
    )

    def __init__(
        self,
        manager: web.Server,
        *,
        clock: Callable[[], float],
        on_error: Callable[[str, BaseException | None], None],
        write_stall_s: float,
        **options: Any,
    ) -> None:
        super().__init__(manager, **options)
        self.write_stall_s = write_stall_s
        self._stall_timer: asyncio.TimerHandle | None = None
        self._wire: asyncio.Transport | None = None
        self.lost: asyncio.Future[None] | None = None
        self.clock = clock
        self.on_error = on_error
        self.on_writable: Callable[[bool], None] | None = None
        self.head_received: float | None = None
        self.client = self.peer = self.local = ""
        self.local_port = 0
        self.serving = self.begun = False

    def data_received(self, data: bytes) -> None:
        # Only while a request is awaited: what comes otherwise is the rest of a body, or was sent ahead of its turn.
        if self.head_received is None and data and (self._waiter is not None or self._request_count == 0):
            self.head_received = self.clock()
        super().data_received(data)
        if self.serving and self._messages and self._messages[-1][1] is EMPTY_PAYLOAD:
            self._fail_broken_body()

    def _fail_broken_body(self) -> None:
        """Tell the handler of a body whose framing broke: aiohttp queues the error behind it and lets it wait."""
        request = self._current_request
        if request is None or request.content.is_eof() or not isinstance(self._messages[-1][0], _ErrInfo):
            return
        request.content.set_exception(BadRequest("the request's body is malformed"))
        # Nothing more is read of it, and the connection ends with the answer.
        request.content.feed_eof()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.write_stall_s:
            self._stall_timer = self._loop.call_later(self.write_stall_s + _CALLS_OWN_LIMIT_S, self.abort)
        if self.on_writable is not None:
            self.on_writable(False)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_stall_timer()
        if self.on_writable is not None:
            self.on_writable(True)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # aiohttp forgets its own when it closes, and closing waits for a client that takes what is still to come.
        self._wire = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        here = transport.get_extra_info("sockname")
        self.peer = str(peer[0]) if peer else ""
        self.local, self.local_port = (str(here[0]), int(here[1])) if here else ("", 0)
        self.client = client_of(self.peer, "", b"")
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._stop_stall_timer()
        self._wire = None
        if self.lost is not None and not self.lost.done():
            self.lost.set_result(None)
        super().connection_lost(exc)

    def abort(self) -> None:
        """Drop the connection with what its client has not taken."""
        if self._wire is not None:
            self._wire.abort()

    @property
    def is_lost(self) -> bool:
        return self._wire is None

    def _stop_stall_timer(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer a request that aiohttp refused, or one on which we failed.

        In the shape of Ollama's errors and without an excerpt of the bytes; aiohttp's own is plain text with a
        traceback in the log for each (23,469 of them in a fuzz of 30,000 requests, measured).
        """
        self.on_error("malformed request" if status < 500 else "unhandled error", exc)
        if status >= 500 and self.begun:
            # Something is out already, written past aiohttp: nothing but the end of the connection would be right.
            self.abort()
        text = "the request is malformed" if status < 500 else "internal error"
        code = "bad_request" if status < 500 else "internal"
        family = Family.API
        if status >= 500:
            family = classify(request.method, request.raw_path).family
        body = error_body(family, status, text)
        fields = [
            (b"Content-Type", JSON_TYPE),
            (b"Content-Length", b"%d" % len(body)),
            (b"X-Pilotlight-Error", code.encode()),
        ]
        # Not aiohttp's response, which names itself in a Server field.
        reply = ClientReply(self, is_http11=True, is_head=request.method == "HEAD", close=True)
        reply.start(status, b"", fields, has_length=True, held=True)
        reply.write(body)
        reply.end()
        return WrittenReply(keep_alive=False)


class Listener(web.Server):
    """aiohttp's server with connections of ours.

    Args:
        relay: Serves the requests.
        on_error: Told of malformed requests and of errors that nobody caught.
        write_stall_s: Longest time for which a client's full buffer stays full; 0 for no limit.
        clock: Monotonic seconds.
        deadlines: For clients that send.
    """

    def __init__(
        self,
        relay: Relay,
        *,
        on_error: Callable[[str, BaseException | None], None],
        write_stall_s: float = 0,
        clock: Callable[[], float] = time.monotonic,
        deadlines: Deadlines = DEADLINES,
    ) -> None:
        super().__init__(
            self._handle,
            handler_cancellation=True,
            keepalive_timeout=KEEPALIVE_TIMEOUT_S,
            lingering_time=LINGERING_S,
            auto_decompress=False,
            access_log=None,
            read_bufsize=READ_BUFFER_BYTES,
            logger=logging.getLogger("proxy.server"),
        )
        self._relay = relay
        self._on_error = on_error
        self._write_stall_s = write_stall_s
        self._clock = clock
        self._head_timeout_s = deadlines.head_s
        self._is_stopping = False
        # They hold nothing, so one of each does.
        self._kept, self._ended = WrittenReply(keep_alive=True), WrittenReply(keep_alive=False)

    def __call__(self) -> Connection:
        return Connection(
            self,
            loop=self._loop,
            clock=self._clock,
            on_error=self._on_error,
            write_stall_s=self._write_stall_s,
            **self._kwargs,
        )

    def drop_slow_heads(self) -> None:
        """Drop connections whose request's head does not come to an end; to be called about once a second."""
        latest = self._clock() - self._head_timeout_s
        for each in self.connections:
            connection = cast("Connection", each)
            if connection.head_received is not None and not connection.serving and connection.head_received < latest:
                self._on_error("slow request head", None)
                connection.abort()

    def close_idle(self) -> None:
        """Close connections on which nothing is being served, and keep no others afterwards."""
        self._is_stopping = True
        for connection in self.connections:
            # aiohttp's own close() makes a connection drop what is still arriving of a request's body.
            if not cast("Connection", connection).serving:
                connection.close()

    async def shutdown(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - as aiohttp has it
        """Close every connection; drop those whose client does not take the rest within the time."""
        connections = [cast("Connection", connection) for connection in self.connections]
        await super().shutdown(timeout)
        open_ones = [connection for connection in connections if not connection.is_lost]
        for connection in open_ones:
            connection.lost = self._loop.create_future()
        if open_ones:
            await asyncio.wait([connection.lost for connection in open_ones if connection.lost], timeout=timeout)
        for connection in open_ones:
            connection.abort()
        # The loop tells of the end in its next turn.
        await asyncio.sleep(0)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = cast("Connection", request.protocol)
        received = connection.head_received or self._clock()
        version = request.version
        connection.serving, connection.begun = True, False
        try:
            reply = await self._relay.serve(
                Inbound(
                    method=request.method,
                    target=request.raw_path,
                    version=(version.major, version.minor),
                    fields=request.raw_headers,
                    body=request.content,
                    connection=connection,
                    received=received,
                    close=not request.keep_alive,
                )
            )
        finally:
            connection.serving = False
            connection.head_received = None
        return self._ended if reply.close or self._is_stopping else self._kept


def require_c_parser() -> None:
    """Refuse to serve with aiohttp's parser in Python, which has accepted what the C one refuses.

    Raises:
        RuntimeError: The C extension is missing or switched off (``AIOHTTP_NO_EXTENSIONS``).
    """
    if http_parser.HttpRequestParser is http_parser.HttpRequestParserPy:
        raise RuntimeError("aiohttp's C parser is missing; install a wheel of aiohttp that has it")
