"""One reply, read from the bytes of a connection: its head, its framing and its end."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import PilotlightError, UpstreamBroken
from proxy.upstream.exchange import CUT_MESSAGE, NoReply, UpstreamConnection, UpstreamRequest
from tests.peers import framed

if TYPE_CHECKING:
    from proxy.wire.http1 import ReplyHead


class Wire(asyncio.Transport):
    """A transport that goes nowhere and remembers."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.aborted = False
        self.reading = True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def abort(self) -> None:
        self.aborted = True

    def is_closing(self) -> bool:
        return self.aborted

    def is_reading(self) -> bool:
        return self.reading

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


class Recorder:
    """A sink that writes down what it is told, in order."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.head: ReplyHead | None = None
        self.raw = b""
        self.payload = b""
        self.error: PilotlightError | None = None

    def on_head(self, head: ReplyHead) -> None:
        self.told.append("head")
        self.head = head

    def on_body(self, raw: bytes, payload: bytes) -> None:
        assert self.told[-1] in ("head", "body")
        self.told.append("body")
        self.raw += raw
        self.payload += payload

    def on_end(self) -> None:
        self.told.append("end")

    def on_failure(self, error: PilotlightError) -> None:
        self.told.append("failure")
        self.error = error

    @property
    def ended(self) -> str:
        return self.told[-1] if self.told else ""


class Bench:
    """A connection with a request on it."""

    def __init__(self) -> None:
        self.freed = 0
        self.closed = 0
        self.connection = UpstreamConnection(self._on_free, self._on_closed)
        self.wire = Wire()
        self.connection.connection_made(self.wire)
        self.sink = self.ask()

    def ask(self) -> Recorder:
        sink = Recorder()
        self.connection.start(b"request", sink)
        return sink

    def feed(self, *pieces: bytes) -> Recorder:
        for piece in pieces:
            self.connection.data_received(piece)
        return self.sink

    def lose(self, error: Exception | None = None) -> Recorder:
        self.connection.connection_lost(error)
        return self.sink

    def _on_free(self, connection: UpstreamConnection) -> None:
        self.freed += 1

    def _on_closed(self, connection: UpstreamConnection) -> None:
        self.closed += 1


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
COUNTED = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\n\r\n"
LAST = b"0\r\n\r\n"


def test_a_request_is_written_as_it_is() -> None:
    request = UpstreamRequest("POST", "/a%2F?x", [(b"hOST", b"h"), (b"X", b"1"), (b"X", b"2")], b"body")
    assert request.encode() == b"POST /a%2F?x HTTP/1.1\r\nhOST: h\r\nX: 1\r\nX: 2\r\n\r\nbody"
    assert Bench().wire.written == b"request"


def test_a_chunked_reply_keeps_its_framing_and_ends_with_its_last_chunk() -> None:
    bench = Bench()
    sink = bench.feed(CHUNKED + framed(b"ab"), framed(b"c"), LAST)
    assert sink.told == ["head", "body", "body", "end"]
    assert (sink.raw, sink.payload) == (framed(b"ab") + framed(b"c"), b"abc")
    assert (bench.freed, bench.connection.is_idle) == (1, True)


def test_a_counted_reply_ends_with_its_last_byte() -> None:
    bench = Bench()
    sink = bench.feed(COUNTED + b"he", b"llo")
    assert (sink.told[-1], sink.raw, sink.payload) == ("end", b"hello", b"hello")
    assert bench.freed == 1


def test_a_reply_without_framing_ends_with_the_connection_and_is_framed_for_the_client() -> None:
    bench = Bench()
    bench.feed(UNTIL_CLOSE + b"ab", b"c")
    assert bench.sink.ended == "body"
    sink = bench.lose()
    assert (sink.ended, sink.payload, sink.raw) == ("end", b"abc", framed(b"ab") + framed(b"c"))
    assert (bench.freed, bench.closed) == (0, 1)


def test_a_reset_is_no_end() -> None:
    bench = Bench()
    bench.feed(UNTIL_CLOSE + b"ab")
    sink = bench.lose(ConnectionResetError())
    assert (sink.ended, str(sink.error)) == ("failure", CUT_MESSAGE)


@pytest.mark.parametrize("data", [CHUNKED, CHUNKED + b"3\r\na", CHUNKED + b"0\r\n", COUNTED + b"hell", CHUNKED[:-2]])
def test_a_reply_that_is_not_over_when_the_connection_is_was_cut(data: bytes) -> None:
    bench = Bench()
    bench.feed(data)
    sink = bench.lose()
    assert sink.ended == "failure"
    assert type(sink.error) is UpstreamBroken
    assert bench.closed == 1


def test_only_a_connection_without_one_byte_back_has_given_no_reply() -> None:
    assert isinstance(Bench().lose().error, NoReply)
    bench = Bench()
    bench.feed(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert not isinstance(bench.lose().error, NoReply)


def test_interim_replies_are_passed_over() -> None:
    sink = Bench().feed(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 X\r\nLink: a\r\n\r\n" + COUNTED + b"hello")
    assert sink.told == ["head", "body", "end"]


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000,
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
        CHUNKED + b"zz\r\n",
        CHUNKED + b"1\r\nabc",
    ],
)
def test_what_is_malformed_fails_and_closes(data: bytes) -> None:
    bench = Bench()
    sink = bench.feed(data)
    assert sink.ended == "failure"
    assert isinstance(sink.error, UpstreamBroken)
    assert bench.wire.aborted
    bench.lose()
    assert sink.told.count("failure") == 1


def test_a_chunk_that_broke_is_still_owed_what_was_not_passed_on() -> None:
    bench = Bench()
    bench.feed(CHUNKED + b"5\r\nab")
    assert bench.connection.open_chunk == (3, False)
    bench.feed(b"cdeXX")
    assert bench.sink.ended == "failure"
    assert bench.connection.open_chunk == (3, False)
    assert bench.sink.payload == b"ab"


def test_a_connection_is_not_reused_after_surplus_or_close() -> None:
    for data in (
        CHUNKED + LAST + b"HTTP/1.1 200 OK",
        COUNTED + b"hello!",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    ):
        bench = Bench()
        assert bench.feed(data).ended == "end"
        assert (bench.freed, bench.wire.aborted, bench.connection.is_idle) == (0, True, False)


def test_bytes_on_an_idle_connection_close_it() -> None:
    bench = Bench()
    bench.feed(COUNTED + b"hello")
    assert bench.connection.is_idle
    bench.feed(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
    assert bench.wire.aborted
    assert not bench.connection.is_idle


def test_a_second_reply_is_its_own() -> None:
    bench = Bench()
    bench.feed(CHUNKED + framed(b"one") + LAST)
    bench.sink = bench.ask()
    assert bench.feed(COUNTED + b"hello").payload == b"hello"
    assert bench.connection.exchanges == 2
    bench.ask()
    with pytest.raises(RuntimeError, match="cannot take a request"):
        bench.ask()


def test_after_an_abort_nothing_is_told() -> None:
    bench = Bench()
    bench.feed(CHUNKED)
    bench.connection.abort()
    bench.feed(framed(b"x") + LAST)
    bench.lose()
    assert bench.sink.told == ["head"]
    assert bench.wire.aborted


def test_a_connection_that_was_paused_reads_again_for_the_next_reply() -> None:
    bench = Bench()
    bench.feed(CHUNKED + framed(b"x"))
    bench.connection.pause_reading()
    bench.connection.pause_reading()
    assert not bench.wire.reading
    # What was in the pipe already.
    bench.feed(LAST)
    assert bench.wire.reading
    assert bench.connection.is_idle


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=8), st.lists(st.integers(0, 600), max_size=12))
def test_wherever_a_reply_is_cut_it_is_the_same(chunks: list[bytes], cuts: list[int]) -> None:
    body = b"".join(map(framed, chunks))
    data = CHUNKED + body + LAST
    edges = sorted({0, len(data), *(cut % len(data) for cut in cuts)})
    sink = Bench().feed(*[data[start:end] for start, end in itertools.pairwise(edges)])
    assert sink.ended == "end"
    assert sink.payload == b"".join(chunks)
    assert sink.raw == body


def test_it_says_where_it_is() -> None:
    assert repr(Bench().connection) == "<UpstreamConnection head, 1 exchanges>"
