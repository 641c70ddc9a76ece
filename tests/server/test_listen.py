"""The listening port: connections, and requests that are none."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import pytest

from proxy.relay.reply import ClientReply
from proxy.server.listen import Listener, require_c_parser
from tests.peers import DEADLINE_S, Answering, End, RawClient, Seen, client, until
from tests.stage import chat, chat_end, chat_token, staged

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from proxy.relay.call import Inbound


async def echo(seen: Seen, reply: Answering) -> None:
    body = f"{seen.method} {seen.target}".encode()
    reply.raw(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))


async def stream(seen: Seen, reply: Answering) -> None:
    reply.head()
    reply.frames(chat_token("x"), chat_end())
    reply.end()


async def test_a_connection_serves_one_request_after_the_other() -> None:
    async with staged(echo) as stage, stage.client() as asking:
        for number in range(10):
            asking.post(f"/{number}", b"x" * number)
            answer = await asking.answer()
            assert (answer.body, answer.header("connection")) == (f"POST /{number}".encode(), None)


async def test_pipelined_requests_are_answered_in_their_order() -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        await (stream if seen.path == "/api/chat" else echo)(seen, reply)

    async with staged(script) as stage, stage.client() as asking:
        for number in range(40):
            if number % 3:
                asking.get(f"/{number}")
            else:
                asking.post("/api/chat", chat())
        for number in range(40):
            answer = await asking.answer()
            assert answer.end is End.COMPLETE
            if number % 3:
                assert answer.body == f"GET /{number}".encode()
            else:
                assert len(answer.lines) == 2


async def test_a_client_that_says_close_is_closed() -> None:
    async with staged(echo) as stage:
        for request in (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n", b"GET / HTTP/1.0\r\n\r\n"):
            async with stage.client() as asking:
                asking.send(request)
                answer = await asking.answer()
                assert (answer.body, answer.header("connection")) == (b"GET /", "close")
                assert await asking.at_end()


async def test_the_clock_starts_with_the_first_byte_of_the_head() -> None:
    async with staged(echo) as stage, stage.client() as asking:
        for _ in range(2):
            asking.send(b"GET / HTTP/1.1\r\nHo")
            await asyncio.sleep(0.2)
            asking.send(b"st: x\r\n\r\n")
            await asking.answer()
        assert all(row["total_ms"] >= 150 for row in await stage.rows(2))


async def test_a_reply_that_is_out_but_never_read_does_not_stay() -> None:
    """No call watches any more once its reply is in the buffer."""

    async def script(seen: Seen, reply: Answering) -> None:
        reply.head()
        for _ in range(200):
            reply.frames(chat_token("x" * 60_000))
            await reply.drain()
        reply.frames(chat_end())
        reply.end()

    async with staged(script, relay={"write_stall_s": 0.2}) as stage:
        stalled = await RawClient.open(stage.address)
        stalled.writer.transport.pause_reading()
        stalled.post("/api/chat", chat(stream=False))
        (row,) = await stage.rows()
        assert row["outcome"] == "ok"
        await until(lambda: not stage.proxy._listener.connections)
        stalled.writer.transport.abort()


def mutated(seed: int, count: int) -> list[bytes]:
    """Requests with a few bytes that do not belong there, the same ones each time."""
    dice = random.Random(seed)
    whole = [
        b"GET /a HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: */*\r\n\r\n",
        b"POST /api/chat HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /api/pull HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        b"POST /v1/messages HTTP/1.0\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\nhello",
        b"DELETE /api/delete HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\nExpect: 100-continue\r\n\r\n",
    ]
    odd = [*(bytes([byte]) for byte in b"\x00\r\n \t:\xff0"), b"\r\n", b"\r\n\r\n", b"chunked", b"-1", b"HTTP/9.9"]
    odd += [b"Content-Length: 7\r\n", b"Transfer-Encoding: chunked\r\n", b"Host: y\r\n"]
    odd += [b"A" * 9000, b"X: " + b"y" * 9000]
    found = []
    for _ in range(count):
        data = dice.choice(whole)
        for _ in range(dice.randint(1, 3)):
            at = dice.randrange(len(data))
            data = data[:at] + dice.choice(odd) + data[at + dice.choice((0, 0, 1, 4)) :]
        found.append(data)
    return found


async def test_malformed_requests_neither_hurt_nor_slip_through() -> None:
    """S1: what reaches the upstream carries our mark; everything ends; no error is ours."""
    async with staged(echo) as stage:

        async def one(data: bytes) -> None:
            asking = await RawClient.open(stage.address, limit=2**20)
            asking.send(data)
            try:
                async with asyncio.timeout(0.05):
                    while piece := await asking.reader.read(65536):
                        if piece.startswith(b"HTTP/1.1 5"):
                            assert piece[9:12] in (b"501", b"502", b"505"), (data, piece)
            except (TimeoutError, ConnectionError):
                pass
            asking.writer.transport.abort()

        requests = mutated(1, 2000)
        for start in range(0, len(requests), 100):
            await asyncio.gather(*map(one, requests[start : start + 100]))
        assert all((seen.header("via") or "").find("pilotlight-") >= 0 for seen in stage.calls)
        await until(lambda: not stage.proxy.relay.active)
        async with stage.client() as asking:
            asking.get("/alive")
            assert (await asking.answer()).body == b"GET /alive"


class FailingRelay:
    """A mistake of ours, for which nothing else would stand still."""

    async def serve(self, inbound: Inbound) -> ClientReply:
        raise LookupError("a secret path")


class RelayThatFailsLate(FailingRelay):
    """The same, with a reply under way."""

    async def serve(self, inbound: Inbound) -> ClientReply:
        reply = ClientReply(inbound.connection, is_http11=True, is_head=False, close=False)
        reply.start(200, b"", [], has_length=False)
        reply.write(b"a token")
        return await super().serve(inbound)


async def failing(relay: type[FailingRelay] = FailingRelay) -> AsyncIterator[tuple[str, list[str]]]:
    told: list[str] = []
    listener = Listener(relay(), on_error=lambda what, error: told.append(what))  # type: ignore[arg-type]
    server = await asyncio.get_running_loop().create_server(listener, "127.0.0.1", 0)
    yield "{}:{}".format(*server.sockets[0].getsockname()), told
    server.close()
    await listener.shutdown(1)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/chat", {"error": "internal error"}),
        ("/v1/models", {"error": {"message": "internal error", "type": "api_error", "param": None, "code": None}}),
        (
            "/v1/messages",
            {"type": "error", "error": {"type": "api_error", "message": "internal error"}, "request_id": ""},
        ),
    ],
)
async def test_a_mistake_of_ours_is_a_500_that_tells_nothing(path: str, body: dict[str, Any]) -> None:
    async for address, told in failing():
        async with client(address) as asking:
            asking.get(path)
            answer = await asking.answer()
            assert (answer.status, answer.json) == (500, body)
            assert answer.header("x-pilotlight-error") == "internal"
            assert answer.header("server") is None
            assert await asyncio.wait_for(asking.at_end(), DEADLINE_S)
        assert told == ["unhandled error"]


async def test_a_mistake_of_ours_in_mid_reply_ends_the_connection_and_says_no_more() -> None:
    async for address, told in failing(RelayThatFailsLate):
        async with client(address) as asking:
            asking.post("/api/chat", {})
            answer = await asking.answer()
            assert (answer.status, answer.body) == (200, b"a token")
            assert answer.end in (End.CUT, End.RESET)
        assert told == ["unhandled error"]


def test_the_c_parser_is_here() -> None:
    require_c_parser()
