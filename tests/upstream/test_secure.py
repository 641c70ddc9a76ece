"""aiohttp's client behind the sinks of the hot path. What TLS adds is aiohttp's; here it speaks plainly."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import pytest

from proxy.errors import UpstreamBroken, UpstreamUnreachable
from proxy.upstream.exchange import CUT_MESSAGE, NoReply, UpstreamRequest
from proxy.upstream.secure import SecureExchanges
from proxy.upstream.session import open_sessions
from tests.peers import Answering, ScriptedUpstream, Seen, framed, until, upstream

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from proxy.errors import PilotlightError
    from proxy.wire.http1 import ReplyHead

REQUEST = UpstreamRequest(
    "POST", "/api/chat?x=%2F", [(b"Host", b"h"), (b"X-A", b"1"), (b"Content-Length", b"2")], b"{}"
)


class Recorder:
    """A sink that remembers; ``refuses`` makes it raise as a splitter of lines that are too long does."""

    def __init__(self) -> None:
        self.head: ReplyHead | None = None
        self.raw = b""
        self.payload = b""
        self.refuses = False
        self.done: asyncio.Future[PilotlightError | None] = asyncio.get_running_loop().create_future()

    def on_head(self, head: ReplyHead) -> None:
        self.head = head

    def on_body(self, raw: bytes, payload: bytes) -> None:
        if self.refuses:
            raise ValueError("a line is too long")
        self.raw += raw
        self.payload += payload

    def on_end(self) -> None:
        self.done.set_result(None)

    def on_failure(self, error: PilotlightError) -> None:
        self.done.set_result(error)


async def run(
    script: Callable[[Seen, Answering], Awaitable[None]],
    test: Callable[[SecureExchanges, ScriptedUpstream], Awaitable[None]],
) -> None:
    async with upstream(script) as server:
        sessions = open_sessions(connect_timeout_s=1, via="1.1 us", user_agent="us")
        exchanges = SecureExchanges(server.url, sessions.fresh)
        try:
            await test(exchanges, server)
        finally:
            await exchanges.aclose()
            await sessions.aclose()


async def ask(exchanges: SecureExchanges) -> tuple[Recorder, PilotlightError | None]:
    sink = Recorder()
    await exchanges.exchange(REQUEST, sink)
    return sink, await asyncio.wait_for(sink.done, 5)


async def test_a_chunked_reply_is_framed_for_the_client() -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        reply.head(200, "application/x-ndjson", "X-B: 1")
        reply.chunk(b"one\n")
        await reply.turn()
        reply.chunk(b"two\n")
        reply.end()

    async def test(exchanges: SecureExchanges, server: ScriptedUpstream) -> None:
        sink, error = await ask(exchanges)
        assert error is None
        assert sink.payload == b"one\ntwo\n"
        assert sink.raw in (framed(b"one\n") + framed(b"two\n"), framed(b"one\ntwo\n"))
        assert sink.head is not None
        assert (sink.head.status, sink.head.chunked, sink.head.is_stream) == (200, True, True)
        assert (b"X-B", b"1") in sink.head.fields
        seen = server.seen[0]
        assert (seen.start_line, seen.body) == ("POST /api/chat?x=%2F HTTP/1.1", b"{}")
        assert ("X-A", "1") in seen.fields
        assert seen.header("user-agent") is seen.header("accept") is seen.header("accept-encoding") is None

    await run(script, test)


async def test_a_counted_reply_has_its_length() -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        reply.json({"a": 1})

    async def test(exchanges: SecureExchanges, server: ScriptedUpstream) -> None:
        sink, error = await ask(exchanges)
        assert error is None
        assert sink.raw == sink.payload == b'{"a":1}'
        assert sink.head is not None
        assert (sink.head.chunked, sink.head.length_bytes) == (False, 7)

    await run(script, test)


async def fin_in_mid_chunk(reply: Answering) -> None:
    reply.raw(framed(b"hello")[:-4])
    reply.fin()


async def rst(reply: Answering) -> None:
    await reply.turn()
    reply.rst()


async def malformed(reply: Answering) -> None:
    await reply.turn()
    reply.raw(b"zz\r\n")


@pytest.mark.parametrize("broken", [fin_in_mid_chunk, rst, malformed])
async def test_a_reply_that_breaks_off_is_a_failure(broken: Callable[[Answering], Awaitable[None]]) -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        reply.head()
        reply.chunk(b"one\n")
        await broken(reply)

    async def test(exchanges: SecureExchanges, server: ScriptedUpstream) -> None:
        _, error = await ask(exchanges)
        assert isinstance(error, UpstreamBroken)
        assert error.message == CUT_MESSAGE

    await run(script, test)


async def test_a_sink_that_cannot_go_on_is_told() -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        reply.head()
        reply.chunk(b"one\n")
        await seen.left.wait()

    async def test(exchanges: SecureExchanges, server: ScriptedUpstream) -> None:
        sink = Recorder()
        sink.refuses = True
        await exchanges.exchange(REQUEST, sink)
        error = await asyncio.wait_for(sink.done, 5)
        assert "a line is too long" in str(error)
        await asyncio.wait_for(server.seen[0].left.wait(), 5)

    await run(script, test)


async def test_no_reply_and_no_readable_reply_are_told() -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        if len(seen.fields) and deaths.pop():
            reply.raw(b"nonsense\r\n\r\n")
        reply.fin()

    deaths = [True, False]

    async def test(exchanges: SecureExchanges, server: ScriptedUpstream) -> None:
        with pytest.raises(NoReply):
            await exchanges.exchange(REQUEST, Recorder())
        with pytest.raises(UpstreamBroken):
            await exchanges.exchange(REQUEST, Recorder())
        assert len(server.seen) == 2

    await run(script, test)


async def test_a_refused_connect_is_told_as_unreachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    sessions = open_sessions(connect_timeout_s=1, via="1.1 us", user_agent="us")
    try:
        with pytest.raises(UpstreamUnreachable):
            await SecureExchanges(f"http://127.0.0.1:{port}", sessions.fresh).exchange(REQUEST, Recorder())
    finally:
        await sessions.aclose()


@pytest.mark.parametrize("all_of_them", [False, True])
async def test_an_abort_closes_the_connection_and_tells_nobody(all_of_them: bool) -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        reply.head()
        reply.chunk(b"one\n")
        await seen.left.wait()

    async def test(exchanges: SecureExchanges, server: ScriptedUpstream) -> None:
        sink = Recorder()
        exchange = await exchanges.exchange(REQUEST, sink)
        await until(lambda: sink.payload == b"one\n")
        if all_of_them:
            await exchanges.aclose()
        else:
            exchange.abort()
        await asyncio.wait_for(server.seen[0].left.wait(), 5)
        assert not sink.done.done()
        assert exchange.open_chunk == (0, False)

    await run(script, test)


async def test_a_paused_exchange_takes_no_more() -> None:
    sent = 0

    async def script(seen: Seen, reply: Answering) -> None:
        nonlocal sent
        reply.head()
        while not seen.left.is_set() and sent < 2**28:
            reply.chunk(b"x" * 65536)
            sent += 65536
            await reply.drain()
            await asyncio.sleep(0)

    async def test(exchanges: SecureExchanges, server: ScriptedUpstream) -> None:
        sink = Recorder()
        exchange = await exchanges.exchange(REQUEST, sink)
        exchange.pause_reading()
        before = -1
        while sent != before:
            before = sent
            await asyncio.sleep(0.1)
        assert len(sink.payload) < 2**20
        exchange.resume_reading()
        await until(lambda: len(sink.payload) > 2**22)
        exchange.abort()

    await run(script, test)
