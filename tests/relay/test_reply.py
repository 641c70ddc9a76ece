"""Which bytes go to a client, and how a reply ends well or badly."""

from __future__ import annotations

import asyncio

import pytest

from proxy.relay.reply import ClientReply


class Wire(asyncio.Transport):
    """A transport that goes nowhere and remembers."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.closed = ""

    @property
    def written(self) -> bytes:
        return b"".join(self.writes)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(data))

    def close(self) -> None:
        self.closed = "closed"

    def abort(self) -> None:
        self.closed = "aborted"

    def is_closing(self) -> bool:
        return bool(self.closed)


class Client:
    on_writable = None
    writing_paused = False

    def __init__(self) -> None:
        self.wire = Wire()
        self.transport: asyncio.Transport | None = self.wire
        self.task: asyncio.Task[None] | None = None

    def write(self, data: bytes) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)


def make(*, is_http11: bool = True, is_head: bool = False, close: bool = False) -> tuple[ClientReply, Client]:
    client = Client()
    return ClientReply(client, is_http11=is_http11, is_head=is_head, close=close), client


def test_a_body_without_length_is_chunked() -> None:
    reply, client = make()
    reply.start(200, b"", [(b"X", b"1")], has_length=False)
    reply.write(b"ab")
    reply.write(b"")
    reply.write_framed(b"3;x=y\r\ncde\r\n", b"cde")
    reply.end()
    assert client.wire.written == (
        b"HTTP/1.1 200 OK\r\nX: 1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n3;x=y\r\ncde\r\n0\r\n\r\n"
    )
    assert (reply.body_bytes, reply.close, client.wire.closed) == (5, False, "")


def test_an_old_client_gets_no_chunks() -> None:
    reply, client = make(is_http11=False)
    reply.start(299, b"Odd", [], has_length=False)
    reply.write_framed(b"2\r\nab\r\n", b"ab")
    reply.end()
    assert client.wire.written == b"HTTP/1.1 299 Odd\r\nConnection: close\r\n\r\nab"
    assert reply.close


def test_head_and_bodiless_replies_have_no_body() -> None:
    reply, client = make(is_head=True)
    reply.start(200, b"", [(b"Content-Length", b"9")], has_length=True)
    reply.write(b"x")
    reply.write_framed(b"1\r\nx\r\n", b"x")
    reply.end()
    assert client.wire.written == b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"
    reply, client = make()
    reply.start(204, b"", [], has_length=False, has_body=False)
    reply.end()
    assert client.wire.written == b"HTTP/1.1 204 No Content\r\n\r\n"


def test_a_head_that_is_held_leaves_with_what_follows() -> None:
    reply, client = make()
    reply.start(200, b"", [(b"Content-Length", b"2")], has_length=True, held=True)
    assert client.wire.writes == []
    reply.write(b"ab")
    assert len(client.wire.writes) == 1
    reply, client = make()
    reply.start(200, b"", [], has_length=False, held=True)
    reply.flush()
    reply.flush()
    assert len(client.wire.writes) == 1


@pytest.mark.parametrize(
    ("owed", "owes_line_end", "sent"),
    [
        (0, False, b"5\r\nerror\r\n"),
        (0, True, b"\r\n5\r\nerror\r\n"),
        (2, False, b"er\r\n3\r\nror\r\n"),
        (5, False, b"error\r\n"),
        (9, False, b"error"),
    ],
)
def test_an_error_frame_fills_the_open_chunk_first(owed: int, owes_line_end: bool, sent: bytes) -> None:
    reply, client = make()
    reply.start(200, b"", [], has_length=False)
    before = client.wire.written
    reply.fail(b"error", owed_bytes=owed, owes_line_end=owes_line_end)
    reply.fail(b"again")
    assert client.wire.written == before + sent
    # What is noted about the call comes before the connection's end.
    assert (reply.failed, reply.close, client.wire.closed) == (True, True, "")
    reply.hang_up()
    assert client.wire.closed == "closed"


def test_a_reply_with_a_length_has_no_place_for_a_frame() -> None:
    reply, client = make()
    reply.start(200, b"", [(b"Content-Length", b"9")], has_length=True)
    before = client.wire.written
    reply.fail(b"error")
    assert client.wire.written == before


def test_a_reply_that_ended_cannot_fail() -> None:
    reply, client = make()
    reply.start(200, b"", [], has_length=False)
    reply.end()
    before = client.wire.written
    reply.fail(b"error")
    assert (client.wire.written, reply.failed) == (before, False)


def test_a_client_that_is_gone_takes_nothing() -> None:
    reply, client = make()
    client.transport = None
    reply.start(200, b"", [], has_length=False)
    reply.write(b"x")
    reply.fail(b"error")
    reply.hang_up()
    reply.abort()
    assert client.wire.writes == []


def test_the_tail_is_the_last_two_bytes_wherever_they_were_cut() -> None:
    reply, _ = make()
    reply.start(200, b"", [], has_length=False)
    tails = []
    for piece in (b"a", b"b", b"cd", b"\n", b"\n"):
        reply.write(piece)
        tails.append(reply.tail)
    assert tails == [b"a", b"ab", b"cd", b"d\n", b"\n\n"]
