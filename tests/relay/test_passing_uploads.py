"""Uploads: streamed, invited when they are wanted, answered early, and broken off."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.peers import DEADLINE_S, Answering, End, RawClient, Seen, until
from tests.stage import staged

if TYPE_CHECKING:
    from collections.abc import Awaitable

SIZE = 8 * 2**20


async def plain(seen: Seen, reply: Answering) -> None:
    reply.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n" + (b"" if seen.method == "HEAD" else b"ok"))


def upload(client: RawClient, size: int = SIZE, *more: str) -> None:
    lines = ["POST /api/blobs/sha256:00 HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {size}", *more, "", ""]
    client.send("\r\n".join(lines).encode())


async def send_all(client: RawClient, size: int) -> None:
    piece = b"\x00" * 65536
    while size > 0:
        client.send(piece[:size])
        size -= len(piece)
        await client.writer.drain()


async def test_an_upload_is_streamed_not_collected() -> None:
    half = asyncio.Event()

    async def script(seen: Seen, reply: Answering) -> None:
        await until(lambda: seen.body_bytes > 2**20)
        half.set()
        await seen.whole.wait()
        reply.whole(b"", 201)

    async with staged(script) as stage, stage.client() as client:
        stage.upstream.answers_early = lambda seen: seen.path.startswith("/api/blobs")
        upload(client)
        await send_all(client, 2**21)
        # The rest is sent only once the upstream has some of the beginning.
        await asyncio.wait_for(half.wait(), DEADLINE_S)
        await send_all(client, SIZE - 2**21)
        assert (await client.answer()).status == 201
        assert stage.calls[-1].body_bytes == SIZE
        assert stage.calls[-1].header("content-length") == str(SIZE)
        assert stage.calls[-1].header("transfer-encoding") is None


async def test_an_early_answer_reaches_the_client_and_ends_the_upload() -> None:
    """Ollama answers 200 at once when it has the blob, and never reads the body (server/routes.go)."""

    async def script(seen: Seen, reply: Answering) -> None:
        # As Go does it: the answer, the end of the stream, and half a second later the end of the connection.
        reply.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        reply.transport.pause_reading()
        await asyncio.sleep(0.5)
        reply.fin()

    async with staged(script) as stage:
        stage.upstream.answers_early = lambda seen: seen.path.startswith("/api/blobs")
        for _ in range(3):
            async with stage.client() as client:
                upload(client, 2**30)
                sending = asyncio.create_task(_ignoring_resets(send_all(client, 2**30)))
                answer = await client.answer()
                assert (answer.status, answer.end) == (200, End.COMPLETE)
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
        await until(lambda: not stage.proxy.relay.active)


async def test_an_upstream_that_drops_an_upload_is_told_or_has_answered() -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        reply.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        reply.fin()

    async with staged(script) as stage:
        stage.upstream.answers_early = lambda seen: seen.path.startswith("/api/blobs")
        for _ in range(5):
            async with stage.client() as client:
                upload(client, 2**30)
                sending = asyncio.create_task(_ignoring_resets(send_all(client, 2**30)))
                answer = await client.answer()
                assert answer.status in (200, 502)
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
        await until(lambda: not stage.proxy.relay.active)


async def _ignoring_resets(sending: Awaitable[None]) -> None:
    try:
        await sending
    except ConnectionError:
        return


async def test_a_client_that_leaves_during_an_upload_is_seen_upstream() -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        await seen.left.wait()

    async with staged(script) as stage:
        stage.upstream.answers_early = lambda seen: seen.path.startswith("/api/blobs")
        client = await RawClient.open(stage.address)
        upload(client)
        await send_all(client, 2**20)
        await until(lambda: bool(stage.calls) and stage.calls[0].body_bytes > 2**19)
        await client.close()
        async with asyncio.timeout(0.5):
            await stage.calls[0].left.wait()
        (row,) = await stage.rows()
        assert (row["status"], row["outcome"], row["client_left"]) == (499, "cancelled", "waiting")


async def test_a_body_whose_chunks_are_malformed_is_the_clients_fault() -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        await seen.left.wait()

    async with staged(script) as stage:
        stage.upstream.answers_early = lambda seen: seen.path.startswith("/api/blobs")
        for path in (b"/api/blobs/x", b"/api/chat"):
            async with stage.client() as client:
                client.send(
                    b"POST %b HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n" % path
                )
                await until(lambda: len(stage.proxy.relay.active) == 1)
                client.send(b"zz\r\n")
                answer = await client.answer()
                assert (answer.status, answer.header("x-pilotlight-error")) == (400, "bad_request")
                assert await client.at_end()


@pytest.mark.parametrize("path", ["/api/blobs/sha256:00", "/api/chat"])
async def test_a_body_is_invited_when_it_is_wanted(path: str) -> None:
    async with staged(plain) as stage, stage.client() as client:
        client.send(
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\nExpect: 100-Continue\r\n\r\n".encode()
        )
        assert (await client.head())[0] == 100
        client.send(b"hello")
        assert (await client.answer()).status == 200
        assert stage.calls[-1].body == b"hello"
        assert stage.calls[-1].header("expect") is None


async def test_a_body_that_cannot_be_delivered_is_not_invited() -> None:
    async with staged(plain) as stage, stage.client() as client:
        await stage.upstream.stop()
        client.send(
            b"POST /api/blobs/x HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
        )
        assert (await client.head())[0] == 502
