"""One client connection: reading requests, running a handler for each, noticing that the client left."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Final, cast

from proxy.simulator.net.request import BadHead, Head, parse_head
from proxy.simulator.net.writer import ResponseWriter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

_MAX_HEAD_BYTES: Final = (1 << 20) + 4096  # http.DefaultMaxHeaderBytes and its slop
_HIGH_WATER_BYTES: Final = 1 << 20
_PIECE_GAP_S: Final = 0.0005  # between the pieces of a cut frame, so that they arrive apart


class ClientGone(Exception):
    """The client closed the connection."""


class BrokenBody(Exception):
    """The body's framing is wrong, or it ends too early; the text is Go's."""


class Exchange:
    """A request and its response, as a handler sees them."""

    def __init__(self, head: Head, connection: Connection) -> None:
        self.head = head
        self.connection = connection
        self.response = ResponseWriter(head, connection.send)
        self.body_bytes = 0
        self._read: bytes | None = None

    async def body(self) -> bytes:
        """The whole body.

        Raises:
            BrokenBody: it cannot be read to its end.
        """
        if self._read is None:
            self._read = b"".join([piece async for piece in self.stream()])
        return self._read

    async def stream(self) -> AsyncIterator[bytes]:
        """The body piece by piece."""
        try:
            async for piece in self.connection.read_body(self.head):
                self.body_bytes += len(piece)
                yield piece
        except BrokenBody:
            self.response.close_after = True
            raise

    async def drain(self) -> None:
        """Wait while the client reads too slowly."""
        await self.connection.drain()


def _report(task: asyncio.Task[None]) -> None:
    """Tell the event loop of a handler that failed; the connection is closed all the same."""
    if not task.cancelled() and task.exception() is not None:
        context = {"message": "a handler of the simulated Ollama failed", "exception": task.exception()}
        task.get_loop().call_exception_handler(context)


class Connection(asyncio.Protocol):
    """The server's side of one TCP connection.

    Args:
        handle: answers one request; it is cancelled when the client leaves.
        opened: told of the connection when it is made.
        closed: told of the connection when it is gone.
    """

    def __init__(
        self,
        handle: Callable[[Exchange], Awaitable[None]],
        opened: Callable[[Connection], None],
        closed: Callable[[Connection], None],
    ) -> None:
        self._handle = handle
        self._opened = opened
        self._closed = closed
        self._buffer = bytearray()
        self._news = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._eof = False
        self._reading = False
        self._task: asyncio.Task[None] | None = None
        self._body_left: AsyncIterator[bytes] | None = None
        self.transport: asyncio.Transport | None = None
        self.serving = False
        self.gone = False
        self.cut_sizes: Sequence[int] = ()
        self._slow = bytearray()
        self._slow_task: asyncio.Task[None] | None = None

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio's.
        self.transport = cast("asyncio.Transport", transport)
        self._opened(self)
        self._task = asyncio.get_running_loop().create_task(self._serve())
        self._task.add_done_callback(_report)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._news.set()
        if len(self._buffer) > _HIGH_WATER_BYTES and self.transport is not None:
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        # Go treats a half-closed connection as gone: its background read ends the request's context.
        # While it still reads the body, the handler learns of the end by itself.
        self._eof = True
        self._news.set()
        if self.serving and not self._reading and not self._buffer and self._task is not None:
            self.gone = True
            self._task.cancel()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._eof = True
        self.gone = self.gone or self.serving
        self._news.set()
        self._writable.set()
        if self._task is not None:
            self._task.cancel()
        self._closed(self)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # -- output

    def send(self, data: bytes) -> None:
        """Bytes for the wire."""
        if self.cut_sizes:
            self._slow += data
            if self._slow_task is None:
                self._slow_task = asyncio.get_running_loop().create_task(self._send_in_pieces())
        elif self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    async def _send_in_pieces(self) -> None:
        sizes = list(self.cut_sizes)
        index = 0
        while self._slow and self.transport is not None and not self.transport.is_closing():
            size = max(1, sizes[min(index, len(sizes) - 1)])
            index += 1
            piece = bytes(self._slow[:size])
            del self._slow[:size]
            self.transport.write(piece)
            await asyncio.sleep(_PIECE_GAP_S)
        self._slow_task = None

    async def drain(self) -> None:
        """Wait until the client has read enough."""
        await self._writable.wait()

    def cut(self, *, reset: bool = False) -> None:
        """End the connection now, in the middle of whatever is under way."""
        if self.transport is None:
            return
        if reset:
            self.transport.abort()
        else:
            self.transport.close()

    # -- input

    async def _more(self) -> None:
        if self._eof:
            raise ClientGone
        self._news.clear()
        if self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()
        self._reading = True
        try:
            await self._news.wait()
        finally:
            self._reading = False

    async def _serve(self) -> None:
        try:
            while await self._one_request():
                pass
        except ClientGone:
            pass
        finally:
            if self._slow_task is not None and not self.gone:
                await self._slow_task
            if self.transport is not None:
                self.transport.close()

    async def _one_request(self) -> bool:
        """Answer one request; whether another one may follow."""
        try:
            head = await self._read_head()
        except BadHead as error:
            head_text = "Content-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"
            self.send(f"HTTP/1.1 {error.status_line}\r\n{head_text}{error.body}".encode())
            return False
        exchange = Exchange(head, self)
        self._body_left = None
        self.serving = True
        try:
            await self._handle(exchange)
        finally:
            self.serving = False
        if self.transport is None or self.transport.is_closing() or self.gone:
            return False
        exchange.response.finish()
        if not exchange.response.close_after:
            await self._skip_body(exchange)
        return not exchange.response.close_after

    async def _read_head(self) -> Head:
        while True:
            end = re.search(rb"\r?\n\r?\n", self._buffer)
            if (end.start() if end is not None else len(self._buffer)) > _MAX_HEAD_BYTES:
                raise BadHead("", 431, "Request Header Fields Too Large")
            if end is not None:
                raw = bytes(self._buffer[: end.start()])
                del self._buffer[: end.end()]
                return parse_head(raw)
            await self._more()

    async def _skip_body(self, exchange: Exchange) -> None:
        """Read what the handler left of the body, so that the next request starts where it should."""
        try:
            async for _ in self.read_body(exchange.head):
                pass
        except BrokenBody:
            exchange.response.close_after = True

    async def read_body(self, head: Head) -> AsyncIterator[bytes]:
        """The rest of the request's body."""
        if self._body_left is None:
            self._body_left = self._pieces(head)
        async for piece in self._body_left:
            yield piece

    async def _pieces(self, head: Head) -> AsyncIterator[bytes]:
        chunked = head.get("Transfer-Encoding").lower() == "chunked"
        length = int(head.get("Content-Length", "0")) if not chunked else 0
        if (chunked or length) and head.get("Expect").lower() == "100-continue":
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            if chunked:
                async for piece in self._chunks():
                    yield piece
                return
            while length:
                while not self._buffer:
                    await self._more()
                piece = bytes(self._buffer[:length])
                del self._buffer[: len(piece)]
                length -= len(piece)
                yield piece
        except ClientGone:
            raise BrokenBody("unexpected EOF") from None

    async def _chunks(self) -> AsyncIterator[bytes]:
        while True:
            size_text = (await self._line()).split(b";")[0].strip()
            if not re.fullmatch(rb"[0-9a-fA-F]{1,16}", size_text):
                raise BrokenBody("invalid byte in chunk length")
            left = int(size_text, 16)
            if left == 0:
                while await self._line():
                    pass
                return
            while left:
                while not self._buffer:
                    await self._more()
                piece = bytes(self._buffer[:left])
                del self._buffer[: len(piece)]
                left -= len(piece)
                yield piece
            if await self._line():
                raise BrokenBody("malformed chunked encoding")

    async def _line(self) -> bytes:
        while b"\n" not in self._buffer:
            await self._more()
        line, _, rest = bytes(self._buffer).partition(b"\n")
        self._buffer[:] = rest
        return line.rstrip(b"\r")
