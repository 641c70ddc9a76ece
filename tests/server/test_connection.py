"""One client's connection: however the bytes of its requests are cut, each is served once, whole, and in its turn.

What arrives is handed to the connection piece by piece, because a socket decides by itself what is one piece; what
leaves is read from the socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from proxy.edge.keys import hash_key, new_key
from proxy.relay.reply import ClientReply
from proxy.server.listen import KEEPALIVE_TIMEOUT_S, Listener
from tests.peers import DEADLINE_S, Answering, End, RawClient, Seen, client, until
from tests.stage import MODEL, chat, chat_end, chat_token, make_settings, staged

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from proxy.relay.call import Inbound
    from proxy.server.connection import Connection
    from tests.stage import Stage


async def stream(seen: Seen, reply: Answering) -> None:
    if seen.path != "/api/chat":
        reply.json({"path": seen.target, "body_bytes": seen.body_bytes})
        return
    reply.head()
    reply.frames(chat_token(seen.json["messages"][0]["content"]), chat_end())
    reply.end()


def bytes_of(path: str, body: Any, *more: str) -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", *more, f"Content-Length: {len(data)}", "", ""]
    return "\r\n".join(lines).encode() + data


def ask(text: str, *more: str) -> bytes:
    return bytes_of("/api/chat", chat(messages=[{"role": "user", "content": text}]), *more)


async def said(asking: RawClient) -> str:
    answer = await asking.answer()
    assert (answer.status, answer.end) == (200, End.COMPLETE)
    return answer.lines[0]["message"]["content"]


@contextlib.asynccontextmanager
async def joined(stage: Stage) -> AsyncIterator[tuple[RawClient, Connection]]:
    """A client and the connection that it has on our side, with a head that is known."""
    async with stage.client() as asking:
        for text in ("first", "second"):
            asking.send(ask(text))
            assert await said(asking) == text
        (connection,) = stage.proxy._listener.connections
        yield asking, connection


async def test_a_known_head_is_known_however_its_request_is_cut() -> None:
    async with staged(stream) as stage, joined(stage) as (asking, connection):
        data = ask("in two pieces")
        for cut in range(1, len(data)):
            connection.data_received(data[:cut])
            if cut % 2:
                await asyncio.sleep(0)
            connection.data_received(data[cut:])
            assert await said(asking) == "in two pieces"


async def test_a_request_that_comes_byte_by_byte_is_served() -> None:
    async with staged(stream) as stage, joined(stage) as (asking, connection):
        for more in ((), ("X-New: 1",)):
            for byte in ask("in many pieces", *more):
                connection.data_received(bytes([byte]))
            assert await said(asking) == "in many pieces"


async def test_requests_ahead_of_their_turn_are_served_in_it_however_they_are_cut() -> None:
    async with staged(stream) as stage, joined(stage) as (asking, connection):
        data = ask("a") + ask("b", "X-Other: 1") + ask("c")
        for cut in range(1, len(data)):
            connection.data_received(data[:cut])
            connection.data_received(data[cut:])
            assert [await said(asking) for _ in range(3)] == ["a", "b", "c"]


async def test_no_more_is_read_than_may_wait_and_all_of_it_is_served() -> None:
    held = asyncio.Event()

    async def script(seen: Seen, reply: Answering) -> None:
        await held.wait()
        await stream(seen, reply)

    async with staged(stream) as stage, joined(stage) as (asking, connection):
        stage.script = script
        asking.send(b"".join(ask(str(number)) for number in range(100)))
        await until(lambda: connection._buffer_paused)
        assert len(connection._waiting) == 32
        held.set()
        assert [await said(asking) for _ in range(100)] == [str(number) for number in range(100)]


@pytest.mark.parametrize("is_known", [True, False])
async def test_what_follows_a_request_and_is_none_is_refused_after_it(is_known: bool) -> None:
    async with staged(stream) as stage, joined(stage) as (asking, connection):
        connection.data_received(ask("good", *(() if is_known else ("X-New: 1",))))
        connection.data_received(b"nonsense\r\n\r\n" + ask("late"))
        connection.data_received(ask("later"))
        assert await said(asking) == "good"
        answer = await asking.answer()
        assert (answer.status, answer.header("x-pilotlight-error")) == (400, "bad_request")
        assert await asking.at_end()
        assert len(stage.calls) == 3


async def test_a_chunked_body_that_breaks_is_not_taken_for_whole() -> None:
    head = b"POST /api/chat HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    body = json.dumps(chat()).encode()
    async with staged(stream) as stage, joined(stage) as (asking, connection):
        connection.data_received(head + b"%x\r\n%b\r\n" % (len(body), body))
        await until(lambda: connection.task is not None)
        connection.data_received(b"no size\r\n")
        answer = await asking.answer()
        assert (answer.status, answer.header("x-pilotlight-error")) == (400, "bad_request")
        assert await asking.at_end()
        assert len(stage.calls) == 2


async def test_a_chunked_body_that_breaks_ahead_of_its_turn_is_not_taken_for_whole() -> None:
    held = asyncio.Event()

    async def script(seen: Seen, reply: Answering) -> None:
        await held.wait()
        await stream(seen, reply)

    head = b"POST /api/chat HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with staged(stream) as stage, joined(stage) as (asking, connection):
        stage.script = script
        connection.data_received(ask("before"))
        connection.data_received(head + b"2\r\n{}\r\nno size\r\n")
        held.set()
        assert await said(asking) == "before"
        answer = await asking.answer()
        assert (answer.status, answer.header("x-pilotlight-error")) == (400, "bad_request")
        assert await asking.at_end()
        assert len(stage.calls) == 3


async def test_nothing_is_read_after_a_request_for_another_protocol() -> None:
    async with staged(stream) as stage, joined(stage) as (asking, connection):
        connection.data_received(ask("x", "Connection: upgrade", "Upgrade: websocket") + ask("smuggled"))
        connection.data_received(ask("smuggled"))
        answer = await asking.answer()
        assert answer.status == 200
        assert answer.header("connection") == "close"
        assert await asking.at_end()
        assert [seen.json["messages"][0]["content"] for seen in stage.calls] == ["first", "second", "x"]


async def test_a_key_that_is_revoked_counts_no_more_on_an_open_connection() -> None:
    key, other = new_key(b"k" * 32), new_key(b"o" * 32)
    shown = f"Authorization: Bearer {key}"
    keys = [{"name": "laptop", "hash": hash_key(key)}]
    async with staged(stream, keys=keys, edge={"allow_anonymous": False}) as stage, stage.client() as asking:
        for text in ("a", "b", "c"):
            asking.send(ask(text, shown))
            assert await said(asking) == text
        others = make_settings(stage.upstream.url, keys=[{"name": "other", "hash": hash_key(other)}])
        stage.proxy.relay._guard.replace_keys(others)
        asking.send(ask("d", shown))
        answer = await asking.answer()
        assert (answer.status, answer.header("x-pilotlight-error")) == (401, "unauthorized")
        assert len(stage.calls) == 3


async def test_a_head_of_one_address_speaks_for_no_other() -> None:
    """Each address has a rate of its own, also where the bytes are the same."""
    async with staged(stream, rate_limit={"rate_per_s": 0.01, "burst": 3}) as stage:
        for source in ("127.0.0.1", "127.0.0.9"):
            async with client(stage.address, source=source) as asking:
                for _ in range(3):
                    asking.send(ask("mine"))
                    assert await said(asking) == "mine"
                asking.send(ask("one too many"))
                assert (await asking.answer()).status == 429


async def test_refused_heads_are_not_remembered() -> None:
    async with staged(stream) as stage:
        for number in range(20):
            async with stage.client() as asking:
                asking.send(ask("x", f"X: {number}").replace(b"Host: 127.0.0.1", b"Host: evil.example"))
                assert (await asking.answer()).status == 421
        assert len(stage.proxy._listener.heads) == 0


class AnsweringRelay:
    """Answers each request with its own path."""

    async def serve(self, inbound: Inbound) -> ClientReply:
        head = inbound.head
        reply = ClientReply(inbound.connection, is_http11=True, is_head=False, close=head.closes)
        body = head.path.encode()
        reply.start(200, b"", [(b"Content-Length", b"%d" % len(body))], has_length=True)
        reply.write(body)
        reply.end()
        return reply


async def test_silence_between_two_requests_has_an_end() -> None:
    now = [1000.0]
    listener = Listener(AnsweringRelay(), on_error=lambda what, error: None, clock=lambda: now[0])
    server = await asyncio.get_running_loop().create_server(listener, "127.0.0.1", 0)
    address = "{}:{}".format(*server.sockets[0].getsockname())
    try:
        async with client(address) as asking, client(address) as silent:
            await until(lambda: len(listener.connections) == 2)
            now[0] += KEEPALIVE_TIMEOUT_S
            listener.drop_slow()
            asking.get("/a")
            assert (await asking.answer()).body == b"/a"
            now[0] += 1
            listener.drop_slow()
            assert await silent.at_end()
            asking.get("/b")
            assert (await asking.answer()).body == b"/b"
            now[0] += KEEPALIVE_TIMEOUT_S + 1
            listener.drop_slow()
            assert await asking.at_end()
        await until(lambda: not listener.connections)
    finally:
        server.close()
        await asyncio.wait_for(listener.shutdown(1), DEADLINE_S)


async def test_a_model_is_called_under_its_name_by_the_same_head_and_another_body() -> None:
    """A body like the ones before but for the model is another call."""
    async with staged(stream) as stage, joined(stage) as (asking, _):
        asking.send(bytes_of("/api/chat", {**chat(), "model": MODEL + ":latest"}))
        assert await said(asking) == "hi"
        assert stage.calls[-1].json["model"] == MODEL + ":latest"
