"""Connections are reused where that is safe, and a request is repeated only where that is."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

import pytest

from proxy.errors import PilotlightError, UpstreamUnreachable
from proxy.upstream.breaker import CLOSED, OPEN
from proxy.upstream.connecting import Connecting
from proxy.upstream.exchange import NoReply, UpstreamRequest
from proxy.upstream.pool import IDLE_TIMEOUT_S, Pool
from tests.peers import Answering, ScriptedUpstream, Seen, unanswering_listener, until, upstream

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from proxy.wire.http1 import ReplyHead

REQUEST = UpstreamRequest("POST", "/api/chat", [(b"Host", b"x"), (b"Content-Length", b"2")], b"{}")


class Recorder:
    """A sink that remembers."""

    def __init__(self) -> None:
        self.heads: list[ReplyHead] = []
        self.raw = b""
        self.payload = b""
        self.done: asyncio.Future[PilotlightError | None] = asyncio.get_running_loop().create_future()

    def on_head(self, head: ReplyHead) -> None:
        self.heads.append(head)

    def on_body(self, raw: bytes, payload: bytes) -> None:
        self.raw += raw
        self.payload += payload

    def on_end(self) -> None:
        self.done.set_result(None)

    def on_failure(self, error: PilotlightError) -> None:
        self.done.set_result(error)


class Opened:
    """A pool, its upstream and what it told."""

    def __init__(self, server: ScriptedUpstream) -> None:
        self.server = server
        self.now = 0.0
        self.retries: list[bool] = []
        self.connecting = Connecting(clock=lambda: self.now)
        self.pool = Pool(
            server.url,
            connect_timeout_s=1,
            on_retry=self.retries.append,
            connecting=self.connecting,
            clock=lambda: self.now,
        )

    async def ask(self) -> tuple[Recorder, PilotlightError | None]:
        sink = Recorder()
        await self.pool.exchange(REQUEST, sink)
        async with asyncio.timeout(5):
            return sink, await sink.done


async def ok(seen: Seen, reply: Answering) -> None:
    reply.json({"ok": True})


async def run(script: Callable[[Seen, Answering], Awaitable[None]], test: Callable[[Opened], Awaitable[None]]) -> None:
    async with upstream(script) as server:
        opened = Opened(server)
        try:
            await test(opened)
        finally:
            async with asyncio.timeout(5):
                await opened.pool.aclose()
        assert repr(opened.pool) == "<Pool 0 idle, 0 busy>"


async def test_a_connection_is_used_again() -> None:
    async def test(opened: Opened) -> None:
        for _ in range(3):
            sink, error = await opened.ask()
            assert error is None
            assert sink.payload == b'{"ok":true}'
            assert (opened.pool.idle, opened.pool.busy) == (1, 0)
        assert opened.server.connections == 1

    await run(ok, test)


async def test_requests_at_the_same_time_have_connections_of_their_own() -> None:
    async def test(opened: Opened) -> None:
        await asyncio.gather(*(opened.ask() for _ in range(5)))
        assert opened.server.connections == 5
        assert opened.pool.idle == 5

    await run(ok, test)


async def test_one_that_was_idle_for_long_is_not_used() -> None:
    async def test(opened: Opened) -> None:
        await opened.ask()
        opened.now = IDLE_TIMEOUT_S + 1
        _, error = await opened.ask()
        assert error is None
        assert opened.server.connections == 2
        await until(lambda: opened.pool.idle == 1 and opened.pool.busy == 0)

    await run(ok, test)


@pytest.mark.parametrize("more", ["Connection: close", "X: y\r\nconnection: Keep-Alive, CLOSE"])
async def test_one_that_says_close_is_not_kept(more: str) -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        reply.raw(f"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{more}\r\n\r\n".encode())

    async def test(opened: Opened) -> None:
        for _ in range(2):
            await opened.ask()
        assert opened.server.connections == 2
        assert opened.pool.idle == 0

    await run(script, test)


async def test_bytes_after_a_reply_are_never_read_as_the_next_one() -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        reply.json({"ok": True})
        reply.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")

    async def test(opened: Opened) -> None:
        for _ in range(5):
            sink, _ = await opened.ask()
            assert sink.payload == b'{"ok":true}'
        assert opened.server.connections == 5

    await run(script, test)


async def test_a_connection_that_died_while_idle_is_replaced() -> None:
    async def test(opened: Opened) -> None:
        await opened.ask()
        for connection in opened.server.open:
            connection.transport.close()
        await until(lambda: opened.pool.idle == 0)
        _, error = await opened.ask()
        assert error is None
        assert opened.retries == []

    await run(ok, test)


def dying(deaths: dict[int, Callable[[Answering], None]]) -> Callable[[Seen, Answering], Awaitable[None]]:
    """Answers, but ends as told on the requests of these numbers, the first of which is 1."""
    count = 0

    async def script(seen: Seen, reply: Answering) -> None:
        nonlocal count
        count += 1
        if count in deaths:
            deaths[count](reply)
        else:
            await ok(seen, reply)

    return script


@pytest.mark.parametrize("death", [Answering.fin, Answering.rst])
async def test_a_request_that_a_reused_connection_swallowed_is_sent_once_more(death: Any) -> None:
    async def test(opened: Opened) -> None:
        await opened.ask()
        sink, error = await opened.ask()
        assert error is None
        assert sink.payload == b'{"ok":true}'
        assert len(opened.server.seen) == 3
        assert opened.server.seen[1].body == opened.server.seen[2].body == b"{}"
        assert opened.retries == [True]

    await run(dying({2: death}), test)


@pytest.mark.parametrize("death", [Answering.fin, Answering.rst])
async def test_a_request_that_a_fresh_connection_swallowed_is_not(death: Any) -> None:
    async def test(opened: Opened) -> None:
        _, error = await opened.ask()
        assert isinstance(error, NoReply)
        assert len(opened.server.seen) == 1
        assert opened.retries == []

    await run(dying({1: death}), test)


async def test_it_is_sent_twice_at_most() -> None:
    async def test(opened: Opened) -> None:
        await opened.ask()
        _, error = await opened.ask()
        assert isinstance(error, NoReply)
        assert len(opened.server.seen) == 3

    await run(dying({2: Answering.fin, 3: Answering.fin}), test)


@pytest.mark.parametrize(
    "byte", [b"H", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"]
)
async def test_after_one_byte_of_a_reply_it_is_not_sent_again(byte: bytes) -> None:
    def death(reply: Answering) -> None:
        reply.raw(byte)
        reply.fin()

    async def test(opened: Opened) -> None:
        await opened.ask()
        _, error = await opened.ask()
        assert error is not None
        assert len(opened.server.seen) == 2

    await run(dying({2: death}), test)


async def test_a_repetition_that_finds_no_server_is_told() -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        if len(opened_servers[0].seen) == 1:
            await ok(seen, reply)
            return
        opened_servers[0]._server.close()  # type: ignore[union-attr]
        await asyncio.sleep(0)
        reply.fin()

    opened_servers: list[ScriptedUpstream] = []

    async def test(opened: Opened) -> None:
        opened_servers.append(opened.server)
        await opened.ask()
        _, error = await opened.ask()
        assert isinstance(error, UpstreamUnreachable)
        assert opened.retries == [False]

    await run(script, test)


async def test_fifty_stale_connections_lose_no_request() -> None:
    """R8: each is seen once, or twice where the first copy vanished without a byte."""

    async def test(opened: Opened) -> None:
        await asyncio.gather(*(opened.ask() for _ in range(50)))
        assert opened.pool.idle == 50
        await opened.server.stop()
        await opened.server.start()
        results = await asyncio.gather(*(opened.ask() for _ in range(50)))
        assert [error for _, error in results] == [None] * 50
        assert 100 <= len(opened.server.seen) <= 150

    await run(ok, test)


async def test_a_refused_connect_leaves_nothing_behind() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    pool = Pool(f"http://127.0.0.1:{port}", connect_timeout_s=1)
    with pytest.raises(UpstreamUnreachable, match="connection refused"):
        await pool.exchange(REQUEST, Recorder())
    assert pool.busy == 0
    async with asyncio.timeout(5):
        await pool.aclose()


async def test_a_name_that_nobody_has_is_unreachable() -> None:
    pool = Pool("http://nobody.invalid:1", connect_timeout_s=5)
    with pytest.raises(UpstreamUnreachable):
        await pool.exchange(REQUEST, Recorder())
    assert pool.busy == 0


async def test_a_connect_without_an_answer_times_out() -> None:
    listener, waiting = unanswering_listener()
    try:
        pool = Pool(f"http://127.0.0.1:{listener.getsockname()[1]}", connect_timeout_s=0.2)
        with pytest.raises(UpstreamUnreachable, match="no answer to the connect"):
            await pool.exchange(REQUEST, Recorder())
        assert pool.busy == 0
        await pool.aclose()
    finally:
        for sock in (listener, *waiting):
            sock.close()


async def test_a_cancelled_connect_leaves_nothing_behind() -> None:
    listener, waiting = unanswering_listener()
    try:
        pool = Pool(f"http://127.0.0.1:{listener.getsockname()[1]}", connect_timeout_s=30)
        asking = asyncio.create_task(pool.exchange(REQUEST, Recorder()))
        await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert pool.busy == 0
        async with asyncio.timeout(5):
            await pool.aclose()
    finally:
        for sock in (listener, *waiting):
            sock.close()


async def test_an_aborted_exchange_closes_its_connection_and_tells_nobody() -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        reply.head()
        await seen.left.wait()

    async def test(opened: Opened) -> None:
        sink = Recorder()
        exchange = await opened.pool.exchange(REQUEST, sink)
        await until(lambda: bool(sink.heads))
        exchange.abort()
        exchange.abort()
        async with asyncio.timeout(5):
            await opened.server.seen[0].left.wait()
        assert not sink.done.done()
        await until(lambda: opened.pool.busy == 0)

    await run(script, test)


async def test_an_exchange_that_ended_does_not_touch_the_next_one_on_its_connection() -> None:
    async def test(opened: Opened) -> None:
        sink = Recorder()
        ended = await opened.pool.exchange(REQUEST, sink)
        await sink.done
        following = Recorder()
        await opened.pool.exchange(REQUEST, following)
        ended.pause_reading()
        ended.abort()
        assert await asyncio.wait_for(following.done, 5) is None
        assert opened.server.connections == 1

    await run(ok, test)


async def test_a_server_that_closes_at_once_is_told_as_an_error_of_the_upstream() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    loop = asyncio.get_running_loop()

    async def accept() -> None:
        while True:
            accepted, _ = await loop.sock_accept(listener)
            accepted.close()

    accepting = asyncio.create_task(accept())
    pool = Pool(f"http://127.0.0.1:{listener.getsockname()[1]}", connect_timeout_s=1)
    try:
        for _ in range(20):
            sink = Recorder()
            try:
                await pool.exchange(REQUEST, sink)
            except UpstreamUnreachable:
                continue
            assert await asyncio.wait_for(sink.done, 5) is not None
    finally:
        accepting.cancel()
        await asyncio.gather(accepting, return_exceptions=True)
        await asyncio.wait_for(pool.aclose(), 5)
        listener.close()


async def test_a_listener_that_comes_back_within_the_attempts_is_found() -> None:
    async def test(opened: Opened) -> None:
        await opened.server.stop()
        asking = asyncio.create_task(opened.ask())
        await until(lambda: opened.connecting.budget.running == 1)
        await opened.server.start()
        _, error = await asking
        assert error is None
        assert opened.retries == []

    await run(ok, test)


async def test_five_connections_without_a_reply_open_the_breaker_and_an_answer_closes_it() -> None:
    async def test(opened: Opened) -> None:
        for _ in range(5):
            _, error = await opened.ask()
            assert isinstance(error, NoReply)
        assert opened.pool.breaker.state == OPEN
        with pytest.raises(UpstreamUnreachable) as told:
            await opened.ask()
        assert told.value.retry_after_s == 1.0
        assert len(opened.server.seen) == 5
        opened.now = 1.0
        _, error = await opened.ask()
        assert error is None
        assert (opened.pool.breaker.state, opened.pool.breaker.failures) == (CLOSED, 0)

    await run(dying(dict.fromkeys(range(1, 6), Answering.fin)), test)


async def test_an_error_that_ollama_answers_is_no_failure() -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        reply.json({"error": "x"}, 500)

    async def test(opened: Opened) -> None:
        for _ in range(10):
            _, error = await opened.ask()
            assert error is None
        assert opened.pool.breaker.failures == 0

    await run(script, test)


async def test_a_connection_that_stands_idle_is_used_whatever_the_breaker_says() -> None:
    async def test(opened: Opened) -> None:
        await opened.ask()
        for _ in range(5):
            opened.pool.breaker.on_failure(0.0)
        assert opened.pool.breaker.state == OPEN
        _, error = await opened.ask()
        assert error is None
        assert opened.server.connections == 1
        assert opened.pool.breaker.state == CLOSED

    await run(ok, test)


async def test_stale_connections_are_replaced_without_the_budget() -> None:
    async def test(opened: Opened) -> None:
        await opened.ask()
        opened.connecting.budget.on_retry_start()
        assert not opened.connecting.budget.may_retry(1)
        _, error = await opened.ask()
        assert error is None
        assert opened.retries == [True]
        assert opened.pool.breaker.failures == 0

    await run(dying({2: Answering.fin}), test)
