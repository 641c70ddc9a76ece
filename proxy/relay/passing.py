"""Everything that is no call to a model: relayed as it is, in constant memory, through aiohttp's client.

Uploads and downloads of any size, HEAD, routes that nobody here knows, and every request to an ``https://`` upstream
that is not a generation.
"""

from __future__ import annotations

import asyncio
import functools
import time
from typing import TYPE_CHECKING, Final

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from proxy.errors import PilotlightError, RequestTimeout, UpstreamBroken
from proxy.observe.final import Tail, read_final
from proxy.observe.timeline import Outcome, outcome_of
from proxy.relay.call import in_time
from proxy.relay.limits import CLIENT_STALLED
from proxy.upstream.connecting import Connecting
from proxy.upstream.exchange import CUT_MESSAGE
from proxy.upstream.retry import Situation, may_repeat
from proxy.upstream.session import Sessions, StaleConnection, fail_with_connection, reply_head, send
from proxy.wire.headers import LENGTH, Field, end_to_end, first, stream_fields
from proxy.wire.routes import Kind
from proxy.wire.shapes import stream_error, stream_separator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from proxy.relay.call import Call
    from proxy.relay.reply import ClientConnection
    from proxy.upstream.connecting import Attempt

_NOT_SENT_ON: Final = frozenset((b"expect", b"x-request-id", b"via", b"x-priority"))


class Passing:
    """Relays requests.

    Args:
        base_url: Of the upstream, without a path.
        sessions: Its clients.
        via: Our entry in ``Via``.
        write_stall_s: Longest time for which a client's full buffer stays full; 0 for no limit.
        connecting: What is shared with others that reach this upstream; ``None`` for one of its own.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        base_url: str,
        sessions: Sessions,
        *,
        via: str,
        write_stall_s: float,
        connecting: Connecting | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._write_stall_s = write_stall_s
        self._base_url = base_url
        self._sessions = sessions
        self._via = via
        self._connecting = Connecting(clock=clock) if connecting is None else connecting
        self._clock = clock
        self._in_flight = 0

    async def serve(self, call: Call, connection: ClientConnection) -> None:
        """Relay one request and its reply.

        Args:
            call: Whose; its body is streamed from the client.
            connection: The client's, for its write buffer.

        Raises:
            UpstreamUnreachable: Nothing was sent.
            UpstreamBroken: No head came.
            UpstreamTimeout: No connection within the time.
        """
        self._in_flight += 1
        try:
            async with await self._sent(call) as upstream:
                await self._answer(call, connection, upstream)
        finally:
            self._in_flight -= 1

    async def _sent(self, call: Call) -> aiohttp.ClientResponse:
        """The reply, when its head is here. Only what may be sent again goes over a connection that may be dead."""
        # A body that was taken from the client is not here any more.
        may_reuse = not _has_body(call.fields) and may_repeat(call.method, call.path, Situation.REUSED_NO_REPLY)
        try:
            return await self._connected(call, may_reuse)
        except StaleConnection:
            return await self._connected(call, False)
        except UpstreamBroken as error:
            broken_body = call.body_error or call.body.exception()
            if isinstance(broken_body, PilotlightError):
                raise broken_body from error
            raise

    async def _connected(self, call: Call, may_reuse: bool) -> aiohttp.ClientResponse:
        # Each attempt may build the request anew: before there is a connection, nothing is taken from the body.
        return await self._connecting.connected(
            functools.partial(self._request, call, may_reuse), lambda: self._in_flight
        )

    async def _request(self, call: Call, may_reuse: bool, attempt: Attempt) -> aiohttp.ClientResponse:
        session = self._sessions.pooled if may_reuse else self._sessions.fresh
        headers = CIMultiDict[str]()
        spelt: dict[str, str] = {}
        for name, value in end_to_end(call.fields, _NOT_SENT_ON, call.names):
            # A repetition spelt in another case would replace the field in aiohttp's client (``_prepare_headers``).
            text = name.decode()
            headers.add(spelt.setdefault(text.lower(), text), value.decode())
        headers["X-Request-Id"] = call.timeline.request_id
        headers["Via"] = via_value(call.fields, self._via)
        call.timeline.sent = self._clock()
        url = URL(self._base_url + call.path, encoded=True)
        data = _pieces(call) if _has_body(call.fields) else None
        return await send(session, attempt, call.method, url, headers, data)

    async def _answer(self, call: Call, connection: ClientConnection, upstream: aiohttp.ClientResponse) -> None:
        timeline, reply = call.timeline, call.reply
        head = reply_head(upstream)
        is_stream = head.is_stream
        timeline.upstream_head = self._clock()
        timeline.status = head.status
        timeline.outcome = outcome_of(head.status)
        timeline.stream = is_stream
        # The only streams here whose end is looked at are those of managing.
        has_length = head.keeps_length if call.route.kind is Kind.MANAGE else head.length_bytes is not None
        fields = end_to_end(head.fields, frozenset() if has_length else LENGTH)
        if is_stream:
            fields += stream_fields(fields)
        reply.start(
            head.status,
            head.reason,
            fields + call.added,
            has_length=has_length,
            has_body=head.status not in (204, 304),
        )
        fail_with_connection(upstream)
        tail = Tail()
        writable = _Writable(reply.abort, stall_s=self._write_stall_s)
        writable.set(not connection.writing_paused)
        connection.on_writable = writable.set
        try:
            async for piece in upstream.content.iter_any():
                reply.write(piece)
                tail.feed(piece)
                timeline.chunks += 1
                timeline.first_byte = timeline.first_byte or self._clock()
                await writable.wait()
        except (aiohttp.ClientError, TimeoutError):
            self._cut(call, is_stream)
        else:
            self._end(call, tail, is_stream)
        finally:
            connection.on_writable = None
            writable.close()
            if writable.stalled:
                timeline.error_code = CLIENT_STALLED

    def _end(self, call: Call, tail: Tail, is_stream: bool) -> None:
        """End a reply whose body ended as HTTP wants it.

        Progress (``pull``, ``push``, ``create``) ends with ``success`` or with an error line under status 200
        (v0.24.0, server/routes.go), so that anything else was cut.
        """
        if is_stream and call.route.kind is Kind.MANAGE and call.timeline.status == 200:
            record = read_final(tail.read(), call.route.family)
            if record is None:
                self._cut(call, is_stream)
                return
            if record.failed:
                call.timeline.outcome = Outcome.UPSTREAM_ERROR
        call.reply.end()

    def _cut(self, call: Call, is_stream: bool) -> None:
        error = UpstreamBroken(CUT_MESSAGE)
        call.timeline.incomplete = True
        call.timeline.outcome = Outcome.UPSTREAM_ERROR
        call.timeline.error_code = error.code
        frame = b""
        if is_stream:
            family = call.route.family
            frame = stream_separator(family, call.reply.tail) + stream_error(family, error.message, error.code)
        call.reply.fail(frame)


class _Writable:
    """Lets a loop wait while the client's write buffer is full, for a limited time.

    Args:
        give_up: Called when it stayed full for ``stall_s`` (0: no limit); to end the client's connection.
    """

    __slots__ = ("_give_up", "_stall_s", "_timer", "_waiter", "stalled")

    def __init__(self, give_up: Callable[[], None], *, stall_s: float) -> None:
        self._give_up = give_up
        self._stall_s = stall_s
        self._timer: asyncio.TimerHandle | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.stalled = False

    def set(self, writable: bool) -> None:
        self.close()
        if not writable:
            loop = asyncio.get_running_loop()
            self._waiter = loop.create_future()
            if self._stall_s:
                self._timer = loop.call_later(self._stall_s, self._on_stall)
        elif self._waiter is not None:
            waiter, self._waiter = self._waiter, None
            if not waiter.done():
                waiter.set_result(None)

    async def wait(self) -> None:
        if self._waiter is not None:
            await self._waiter

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _on_stall(self) -> None:
        self.stalled = True
        self._give_up()


async def _pieces(call: Call) -> AsyncIterator[bytes]:
    """The client's body as it arrives; an upload of gigabytes never stands in memory."""
    call.invite_body()
    while not call.body.at_eof():
        try:
            piece = await in_time(call.body.readany(), call.deadlines.piece_s)
        except RequestTimeout as error:
            # aiohttp's client makes an error of its own of this one; whoever waits for the answer looks here. Not at
            # the body's: aiohttp's server reads on, for a client that has not seen the answer yet.
            call.body_error = error
            raise
        call.timeline.bytes_in += len(piece)
        if piece:
            yield piece


def _has_body(fields: Sequence[Field]) -> bool:
    length = first(fields, b"content-length")
    return (length is not None and length.strip() != b"0") or first(fields, b"transfer-encoding") is not None


def via_value(fields: Sequence[Field], own: str) -> str:
    """The ``Via`` of a request that goes on: what stood there, and we (RFC 9110 section 7.6.3)."""
    if first(fields, b"via") is None:
        return own
    earlier = [value.decode("latin-1") for name, value in fields if name.lower() == b"via"]
    return ", ".join([*earlier, own])
