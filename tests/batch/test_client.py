from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from proxy.batch.answer import Reply
from proxy.batch.client import Client
from proxy.errors import UpstreamBroken, UpstreamUnreachable
from tests.peers import upstream

if TYPE_CHECKING:
    from tests.peers import Answering, Seen


async def test_a_request_carries_what_was_given_and_the_whole_reply_comes_back() -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        reply.head(503, "application/json", "Retry-After: 7", "X-Pilotlight-Error: overloaded")
        for piece in (b'{"error":', b'"busy"}'):
            reply.chunk(piece)
            await reply.turn()
        reply.end()

    async with upstream(script) as server:
        client = Client(f"{server.url}/before/", [("X-Priority", "batch"), ("X-API-Key", "pl_a")], 4)
        assert await client.post("/api/chat", b"{}") == Reply(503, b'{"error":"busy"}', "overloaded", 7.0)
        await client.aclose()
    (seen,) = server.seen
    assert seen.start_line == "POST /before/api/chat HTTP/1.1"
    assert seen.fields == [
        ("Host", server.address),
        ("Content-Type", "application/json"),
        ("X-Priority", "batch"),
        ("X-API-Key", "pl_a"),
        ("Content-Length", "2"),
    ]
    assert seen.body == b"{}"


async def test_connections_are_kept() -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        reply.json({})

    async with upstream(script) as server:
        client = Client(server.url, [], 4)
        for _ in range(5):
            await client.post("/", b"")
        await client.aclose()
        assert server.connections == 1


async def test_a_cancelled_request_closes_its_connection() -> None:
    asked = asyncio.Event()

    async def script(seen: Seen, reply: Answering) -> None:
        asked.set()
        await seen.left.wait()

    async with upstream(script) as server:
        client = Client(server.url, [], 4)
        waiting = asyncio.ensure_future(client.post("/", b""))
        await asked.wait()
        waiting.cancel()
        await asyncio.wait_for(server.seen[0].left.wait(), 10)
        await client.aclose()


@pytest.mark.parametrize("after", ["Nothing", "Zero", "7.5", "-1", "Wed, 21 Oct 2026 07:28:00 GMT", "9" * 400])
async def test_a_wish_that_is_not_in_seconds_is_none(after: str) -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        reply.head(503, "text/plain", f"Retry-After: {after}", "Content-Length: 0", chunked=False)

    async with upstream(script) as server:
        client = Client(server.url, [], 1)
        assert (await client.post("/", b"")).retry_after_s == 0
        await client.aclose()


async def test_a_server_that_is_not_there_or_breaks_off_is_told_apart() -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        reply.head()
        reply.chunk(b"{")
        await reply.drain()
        reply.fin()

    async with upstream(script) as server:
        client = Client(server.url, [], 1)
        with pytest.raises(UpstreamBroken):
            await client.post("/", b"")
        await client.aclose()
    client = Client(server.url, [], 1)
    with pytest.raises(UpstreamUnreachable):
        await client.post("/", b"")
    await client.aclose()
