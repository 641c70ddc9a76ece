"""Silence on either side ends where it is set to, and a client that reads slowly slows its own stream alone."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING

import pytest

from proxy.server.app import Proxy
from tests.peers import DEADLINE_S, Answering, End, RawClient, Seen, client, framed, ndjson, unanswering_listener, until
from tests.stage import chat, chat_end, chat_token, generate, make_settings, staged

if TYPE_CHECKING:
    from tests.stage import Stage

LARGE = framed(ndjson(chat_token("x" * 60_000)))


class Endless:
    """Sends as fast as it is read, and counts."""

    def __init__(self) -> None:
        self.sent_bytes = 0

    async def __call__(self, seen: Seen, reply: Answering) -> None:
        reply.head()
        while not seen.left.is_set():
            reply.raw(LARGE)
            self.sent_bytes += len(LARGE)
            await reply.drain()
            await asyncio.sleep(0)


async def until_still(endless: Endless) -> int:
    """Wait until nothing more is sent; how much it was."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            before = endless.sent_bytes
            await asyncio.sleep(0.1)
            if endless.sent_bytes == before > 0:
                return before


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate", "/api/pull"])
async def test_a_client_that_does_not_read_stops_the_upstream_and_is_given_up(path: str) -> None:
    endless = Endless()
    async with staged(endless, relay={"write_stall_s": 0.5}) as stage:
        stalled = await RawClient.open(stage.address, limit=1024)
        stalled.writer.transport.pause_reading()
        stalled.post(path, generate() if path == "/api/generate" else chat())
        await until(lambda: len(stage.calls) == 1)
        # What sockets and buffers of two hops hold; without a limit it would be gigabytes.
        assert await until_still(endless) < 64 * 2**20
        async with asyncio.timeout(DEADLINE_S):
            await stage.calls[0].left.wait()
        (row,) = await stage.rows()
        assert (row["outcome"], row["error"], row["client_left"]) == ("cancelled", "client_stalled", "streaming")
        stalled.writer.transport.abort()


async def test_a_client_that_reads_again_in_time_gets_everything() -> None:
    total = 150

    async def script(seen: Seen, reply: Answering) -> None:
        reply.head()
        for _ in range(total):
            reply.raw(LARGE)
            await reply.drain()
        reply.frames(chat_end())
        reply.end()

    async with staged(script) as stage:
        slow = await RawClient.open(stage.address)
        slow.writer.transport.pause_reading()
        slow.post("/api/chat", chat())
        await until(lambda: len(stage.calls) == 1)
        await asyncio.sleep(0.1)
        slow.writer.transport.resume_reading()
        answer = await slow.answer()
        assert answer.end is End.COMPLETE
        assert len(answer.lines) == total + 1
        await slow.close()


async def test_others_are_not_slowed_by_one_that_does_not_read() -> None:
    endless = Endless()

    async def script(seen: Seen, reply: Answering) -> None:
        if seen.json.get("options"):
            await endless(seen, reply)
            return
        reply.head()
        reply.frames(chat_token("x"), chat_end())
        reply.end()

    async with staged(script) as stage:
        stalled = await RawClient.open(stage.address)
        stalled.writer.transport.pause_reading()
        stalled.post("/api/chat", chat(options={"temperature": 0}))
        await until_still(endless)
        async with stage.client() as healthy:
            for _ in range(20):
                healthy.post("/api/chat", chat())
                assert (await healthy.answer()).end is End.COMPLETE
        stalled.writer.transport.abort()


async def test_a_buffer_left_full_by_the_reply_before_counts_too() -> None:
    """A pipelined request on a connection that nobody reads must not fill memory behind the first reply."""
    endless = Endless()

    async def script(seen: Seen, reply: Answering) -> None:
        if seen.path == "/large":
            reply.whole(b"x" * 16 * 2**20)
        else:
            await endless(seen, reply)

    async with staged(script, relay={"write_stall_s": 1.0}) as stage:
        stalled = await RawClient.open(stage.address)
        stalled.writer.transport.pause_reading()
        stalled.get("/large")
        stalled.post("/api/chat", chat())
        await until(lambda: len(stage.proxy.relay.active) == 1)
        await until(lambda: not stage.proxy.relay.active)
        assert endless.sent_bytes < 64 * 2**20
        stalled.writer.transport.abort()


async def silent_after(stage: Stage, path: str, body: object) -> tuple[bytes, End, dict[str, object]]:
    async with stage.client() as asking:
        asking.post(path, body)
        answer = await asking.answer()
        row = (await stage.rows(1))[0]
        return answer.body, answer.end, {**row, "code": answer.header("x-pilotlight-error")}


async def test_an_upstream_that_goes_silent_in_mid_stream_is_given_up_with_a_frame() -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        reply.head()
        reply.frames(chat_token("x"))
        await seen.left.wait()

    async with staged(script, relay={"idle_timeout_s": 0.2}) as stage:
        for path, request in (("/api/chat", chat()), ("/api/generate", generate())):
            body, end, row = await silent_after(stage, path, request)
            assert end is End.CUT
            assert json.loads(body.splitlines()[-1]) == {"error": "the upstream sent nothing for 0.2 s"}
            assert (row["status"], row["outcome"], row["error"]) == (200, "timeout", "upstream_timeout")
        await until(lambda: all(seen.left.is_set() for seen in stage.calls))


async def test_an_upstream_that_never_answers_is_a_504() -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        await seen.left.wait()

    async with staged(script, relay={"idle_timeout_s": 0.2}) as stage:
        for request in (chat(), chat(stream=False)):
            body, end, row = await silent_after(stage, "/api/chat", request)
            assert end is End.COMPLETE
            assert json.loads(body) == {"error": "the upstream sent nothing for 0.2 s"}
            assert (row["status"], row["outcome"], row["code"]) == (504, "timeout", "upstream_timeout")


async def test_a_stream_that_goes_on_is_not_silent() -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        reply.head()
        for _ in range(8):
            reply.frames(chat_token("x"))
            await asyncio.sleep(0.1)
        reply.frames(chat_end())
        reply.end()

    async with staged(script, relay={"idle_timeout_s": 0.6}) as stage, stage.client() as asking:
        asking.post("/api/chat", chat())
        assert (await asking.answer()).end is End.COMPLETE


async def test_a_limit_that_passes_while_connecting_writes_one_answer() -> None:
    """The exchange that comes into being afterwards must not begin a second one."""
    listener, waiting = unanswering_listener()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    settings = make_settings(
        url, models=[], relay={"idle_timeout_s": 0.1}, upstream={"url": url, "connect_timeout_s": 9}
    )
    proxy = Proxy(settings)
    served = None
    try:
        await proxy.start()
        async with client(proxy.listen_address) as asking:
            asking.post("/api/chat", b"[]")
            await until(lambda: len(proxy.relay.active) == 1)
            await asyncio.sleep(0.2)
            # From here on it is accepted: when the system tries again, after a second.
            served = await asyncio.start_server(_hello, sock=listener)
            answer = await asking.answer()
            assert (answer.status, answer.header("x-pilotlight-error")) == (504, "upstream_timeout")
            asking.get("/next")
            assert (await asking.answer()).body == b"GET /next"
    finally:
        await proxy.aclose()
        if served is not None:
            served.close()
        for sock in (listener, *waiting):
            sock.close()


async def _hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
        while True:
            line = (await reader.readuntil(b"\r\n\r\n")).partition(b" HTTP/")[0]
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(line), line))
    writer.close()


async def test_without_limits_nothing_is_watched() -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        reply.head()
        reply.frames(chat_end())
        reply.end()

    async with (
        staged(script, relay={"idle_timeout_s": 0, "write_stall_s": 0}) as stage,
        client(stage.address) as asking,
    ):
        asking.post("/api/chat", chat())
        assert (await asking.answer()).end is End.COMPLETE
