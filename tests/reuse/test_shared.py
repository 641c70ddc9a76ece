"""Clients that ask for the same at once share one exchange, and none of them notices the others."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from typing import TYPE_CHECKING

import pytest

from proxy.errors import PilotlightError, ShuttingDown, UpstreamBroken, UpstreamUnreachable
from proxy.reuse.recording import Recorded, Recorder
from proxy.reuse.shared import TOO_SLOW, Flights
from proxy.upstream.exchange import UpstreamRequest
from proxy.upstream.pool import Pool
from proxy.wire.http1 import ProtocolError, chunk, parse_head
from proxy.wire.routes import Family
from tests.peers import Answering, Seen, upstream

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.reuse.recording import Replay
    from proxy.upstream.exchange import Sink
    from proxy.wire.http1 import ReplyHead

KEY = b"key"


def head_of() -> ReplyHead:
    head = parse_head(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked")
    assert head is not None
    return head


class Client:
    """A sink that remembers, in order."""

    def __init__(self, at_piece: Callable[[], None] = lambda: None) -> None:
        self.calls: list[object] = []
        self.at_piece = at_piece
        self.over = asyncio.Event()

    def on_head(self, head: ReplyHead) -> None:
        self.calls.append("head")

    def on_body(self, raw: bytes, payload: bytes) -> None:
        assert raw == chunk(payload)
        self.calls.append(payload)
        self.at_piece()

    def on_end(self) -> None:
        self.calls.append("end")
        self.over.set()

    def on_failure(self, error: PilotlightError) -> None:
        self.calls.append(error)
        self.over.set()

    async def ended(self) -> list[object]:
        async with asyncio.timeout(5):
            await self.over.wait()
        return self.calls

    @property
    def body(self) -> bytes:
        return b"".join(call for call in self.calls if isinstance(call, bytes))


class Origin:
    """An exchange that the test plays: its start can be held up or refused, and it remembers how it was steered."""

    def __init__(self, *, slow: bool = False) -> None:
        self.sinks: list[Sink] = []
        self.steered: list[str] = []
        self.may_start = asyncio.Event()
        self.cancelled = False
        self.error: BaseException | None = None
        if not slow:
            self.may_start.set()

    async def start(self, sink: Sink) -> Origin:
        self.sinks.append(sink)
        try:
            await self.may_start.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        if self.error is not None:
            raise self.error
        return self

    def pause_reading(self) -> None:
        self.steered.append("pause")

    def resume_reading(self) -> None:
        self.steered.append("resume")

    def abort(self) -> None:
        self.steered.append("abort")

    @property
    def open_chunk(self) -> tuple[int, bool]:
        return 0, False

    def head(self) -> None:
        self.sinks[0].on_head(head_of())

    def piece(self, *payloads: bytes) -> None:
        for payload in payloads:
            self.sinks[0].on_body(chunk(payload), payload)

    def end(self) -> None:
        self.sinks[0].on_end()

    def fail(self) -> UpstreamBroken:
        error = UpstreamBroken("cut")
        self.sinks[0].on_failure(error)
        return error


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def crowd(flights: Flights, origin: Origin, *clients: Client) -> list[Replay]:
    """The first begins the exchange, all others join it."""
    flows = [await flights.begin(KEY, origin.start, clients[0])]
    for client in clients[1:]:
        flow = flights.join(KEY, client)
        assert flow is not None
        flows.append(flow)
    await turns()
    return flows


# --- knowing when it was sent


async def test_whoever_joins_can_wait_until_the_exchange_was_sent_or_failed_to_be() -> None:
    for error in (None, UpstreamUnreachable("away")):
        flights, origin, clients = Flights(), Origin(slow=True), [Client(), Client()]
        origin.error = error
        first = asyncio.create_task(flights.begin(KEY, origin.start, clients[0]))
        await turns()
        assert flights.join(KEY, clients[1]) is not None
        waiting = asyncio.create_task(flights.until_sent(KEY))
        await turns()
        assert not waiting.done()
        origin.may_start.set()
        async with asyncio.timeout(5):
            await waiting
            await asyncio.wait((first,))
        assert (first.exception() is None) is (error is None)
        assert clients[1].calls == ([] if error is None else [error])
        async with asyncio.timeout(5):
            # Nothing is left to wait for.
            await flights.until_sent(KEY)
        await flights.aclose()


async def test_one_that_stops_waiting_for_that_stops_nobody() -> None:
    flights, origin, clients = Flights(), Origin(slow=True), [Client(), Client()]
    first = asyncio.create_task(flights.begin(KEY, origin.start, clients[0]))
    await turns()
    joined = flights.join(KEY, clients[1])
    assert joined is not None
    waiting = asyncio.create_task(flights.until_sent(KEY))
    await turns()
    waiting.cancel()
    joined.abort()
    await asyncio.wait((waiting,))
    assert not origin.cancelled
    origin.may_start.set()
    async with asyncio.timeout(5):
        await first
    await flights.aclose()


# --- everyone gets everything


async def test_one_alone_gets_its_reply_as_it_comes() -> None:
    flights, origin, client = Flights(), Origin(), Client()
    await crowd(flights, origin, client)
    origin.head()
    assert client.calls == ["head"]
    origin.piece(b"a")
    assert client.calls == ["head", b"a"]
    origin.end()
    assert client.calls == ["head", b"a", "end"]
    assert origin.steered == []


async def test_a_late_joiner_gets_the_stream_from_its_start_and_then_live() -> None:
    flights, origin, first, late = Flights(), Origin(), Client(), Client()
    await crowd(flights, origin, first)
    origin.head()
    origin.piece(b"a", b"b")
    assert flights.join(KEY, late) is not None
    assert late.calls == []
    await turns()
    assert late.calls == ["head", b"a", b"b"]
    origin.piece(b"c")
    assert late.calls == first.calls == ["head", b"a", b"b", b"c"]
    origin.end()
    assert late.calls == first.calls
    assert len(origin.sinks) == 1


async def test_a_joiner_that_catches_up_gets_everything_in_order() -> None:
    flights, origin, first, late = Flights(), Origin(), Client(), Client()
    await crowd(flights, origin, first)
    origin.head()
    pieces = [b"%06d" % number * 100 for number in range(1000)]
    origin.piece(*pieces[:900])
    flights.join(KEY, late)
    for piece in pieces[900:]:
        await asyncio.sleep(0)
        origin.piece(piece)
    origin.end()
    assert (await late.ended())[1:-1] == pieces
    assert (await first.ended())[1:-1] == pieces


async def test_the_reply_is_not_given_before_the_caller_has_its_flow() -> None:
    flights, origin, client = Flights(), Origin(), Client()

    async def start(sink: Sink) -> Origin:
        flow = await origin.start(sink)
        origin.head()
        origin.piece(b"a")
        origin.end()
        return flow

    flow = await flights.begin(KEY, start, client)
    assert client.calls == []
    flow.pause_reading()
    await turns()
    assert client.calls == ["head"]
    flow.resume_reading()
    assert await client.ended() == ["head", b"a", "end"]


async def test_after_the_end_nobody_joins() -> None:
    flights, origin, client = Flights(), Origin(), Client()
    await crowd(flights, origin, client)
    origin.head()
    origin.end()
    assert flights.join(KEY, Client()) is None
    assert repr(flights) == "<Flights 0 joinable, 0 running>"


async def test_another_key_is_another_exchange() -> None:
    flights, origin = Flights(), Origin()
    await crowd(flights, origin, Client())
    assert flights.join(b"other", Client()) is None


async def test_beginning_what_has_begun_is_joining_it() -> None:
    flights, origin, first, second = Flights(), Origin(), Client(), Client()
    await crowd(flights, origin, first)
    await flights.begin(KEY, origin.start, second)
    origin.head()
    origin.end()
    assert await second.ended() == ["head", "end"]
    assert len(origin.sinks) == 1


async def test_framing_alone_is_no_piece() -> None:
    flights, origin, client = Flights(), Origin(), Client()
    await crowd(flights, origin, client)
    origin.head()
    origin.sinks[0].on_body(b"5\r\n", b"")
    origin.end()
    assert client.calls == ["head", "end"]


# --- leaving


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
async def test_in_whatever_order_they_leave_the_others_go_on_and_the_last_ends_it(order: tuple[int, ...]) -> None:
    flights, origin = Flights(), Origin()
    clients = [Client(), Client(), Client()]
    flows = await crowd(flights, origin, *clients)
    origin.head()
    for number, index in enumerate(order):
        origin.piece(b"%d" % number)
        assert origin.steered == []
        flows[index].abort()
        flows[index].abort()
    assert origin.steered == ["abort"]
    for number, index in enumerate(order):
        assert clients[index].body == b"012"[: number + 1]
    assert flights.join(KEY, Client()) is None
    assert len(flights) == 0


async def test_leaving_after_the_end_does_nothing() -> None:
    flights, origin, client = Flights(), Origin(), Client()
    (flow,) = await crowd(flights, origin, client)
    origin.head()
    origin.end()
    flow.abort()
    assert origin.steered == []


async def test_one_that_leaves_in_the_middle_of_a_piece_takes_nobody_along() -> None:
    flights, origin, second = Flights(), Origin(), Client()
    first = Client(at_piece=lambda: flows[0].abort())
    flows = await crowd(flights, origin, first, second)
    origin.head()
    origin.piece(b"a", b"b")
    origin.end()
    assert first.calls == ["head", b"a"]
    assert second.calls == ["head", b"a", b"b", "end"]


async def test_the_upstream_sees_the_last_one_leave_and_not_the_first() -> None:
    going = asyncio.Event()

    async def script(seen: Seen, reply: Answering) -> None:
        reply.head()
        reply.chunk(b"a\n")
        await going.wait()
        reply.chunk(b"b\n")
        await seen.left.wait()

    request = UpstreamRequest("POST", "/api/chat", [(b"Host", b"x"), (b"Content-Length", b"0")], b"")
    async with upstream(script) as server, asyncio.timeout(5):
        pool, flights = Pool(server.url, connect_timeout_s=1), Flights()
        seen_by: list[asyncio.Event] = [asyncio.Event(), asyncio.Event()]
        first, second = Client(at_piece=seen_by[0].set), Client(at_piece=seen_by[1].set)
        flow = await flights.begin(KEY, lambda sink: pool.exchange(request, sink), first)
        await seen_by[0].wait()
        other = flights.join(KEY, second)
        assert other is not None
        await seen_by[1].wait()
        flow.abort()
        seen_by[1].clear()
        going.set()
        await seen_by[1].wait()
        assert (first.body, second.body) == (b"a\n", b"a\nb\n")
        (seen,) = server.seen
        assert not seen.left.is_set()
        other.abort()
        await seen.left.wait()
        await flights.aclose()
        await pool.aclose()


# --- back-pressure


async def test_a_slow_member_does_not_stop_the_fast_one() -> None:
    flights, origin, slow, fast = Flights(), Origin(), Client(), Client()
    flows = await crowd(flights, origin, slow, fast)
    origin.head()
    flows[0].pause_reading()
    origin.piece(b"a", b"b")
    assert (slow.body, fast.body) == (b"", b"ab")
    assert origin.steered == []
    origin.end()
    assert fast.calls[-1] == "end"
    flows[0].resume_reading()
    assert await slow.ended() == ["head", b"a", b"b", "end"]


async def test_the_exchange_is_held_up_while_everyone_is() -> None:
    flights, origin = Flights(), Origin()
    flows = await crowd(flights, origin, Client(), Client())
    origin.head()
    for flow in flows:
        flow.pause_reading()
        flow.pause_reading()
    assert origin.steered == ["pause"]
    flows[1].resume_reading()
    flows[0].resume_reading()
    assert origin.steered == ["pause", "resume"]


async def test_a_joiner_lets_a_held_up_exchange_go_on() -> None:
    flights, origin = Flights(), Origin()
    (flow,) = await crowd(flights, origin, Client())
    flow.pause_reading()
    flights.join(KEY, Client())
    assert origin.steered == ["pause", "resume"]


async def test_when_the_only_fast_one_leaves_the_slow_ones_hold_it_up() -> None:
    flights, origin = Flights(), Origin()
    flows = await crowd(flights, origin, Client(), Client())
    flows[0].pause_reading()
    flows[1].abort()
    assert origin.steered == ["pause"]


async def test_one_that_lags_by_more_than_the_limit_is_failed_and_the_rest_goes_on() -> None:
    flights, origin, slow, fast = Flights(limit_bytes=1000), Origin(), Client(), Client()
    flows = await crowd(flights, origin, slow, fast)
    origin.head()
    flows[0].pause_reading()
    origin.piece(b"x" * 600, b"y" * 400)
    assert slow.calls == ["head"]
    origin.piece(b"z")
    (error,) = slow.calls[1:]
    assert isinstance(error, UpstreamBroken)
    assert error.message == TOO_SLOW
    origin.end()
    assert fast.body == b"x" * 600 + b"y" * 400 + b"z"
    assert origin.steered == []


async def test_one_that_lags_within_the_limit_of_a_long_reply_gets_all_of_it() -> None:
    flights, origin, slow, fast = Flights(limit_bytes=1000), Origin(), Client(), Client()
    flows = await crowd(flights, origin, slow, fast)
    origin.head()
    for number in range(100):
        flows[0].pause_reading()
        origin.piece(b"%09d" % number * 30, b"%09d" % number * 30)
        flows[0].resume_reading()
        await turns(2)
    origin.end()
    assert await slow.ended() == await fast.ended()
    assert len(slow.body) == 54_000


async def test_a_long_reply_cannot_be_joined_and_is_not_kept() -> None:
    flights, origin, client = Flights(limit_bytes=1000), Origin(), Client()
    await crowd(flights, origin, client)
    origin.head()
    origin.piece(b"x" * 1000)
    (shared,) = flights._running
    assert shared._tape.pieces == [b"x" * 1000]
    origin.piece(b"y")
    assert flights.join(KEY, Client()) is None
    for _ in range(100):
        origin.piece(b"z" * 100)
        assert shared._tape.pieces == []
    # The next one begins an exchange of its own, and the end of the first does not take it away.
    other = Origin()
    await flights.begin(KEY, other.start, Client())
    origin.end()
    assert flights.join(KEY, Client()) is not None


# --- failures


@pytest.mark.parametrize("pieces", [None, [], [b"a"]], ids=["before the head", "after the head", "in the middle"])
async def test_a_failure_reaches_all(pieces: list[bytes] | None) -> None:
    flights, origin, first, second = Flights(), Origin(), Client(), Client()
    await crowd(flights, origin, first, second)
    if pieces is not None:
        origin.head()
        origin.piece(*pieces)
    error = origin.fail()
    assert first.calls == second.calls == [*(["head"] if pieces is not None else []), *(pieces or []), error]
    assert flights.join(KEY, Client()) is None


async def test_a_failure_comes_after_the_pieces_that_a_slow_one_has_not_had() -> None:
    flights, origin, slow = Flights(), Origin(), Client()
    (flow,) = await crowd(flights, origin, slow)
    origin.head()
    flow.pause_reading()
    origin.piece(b"a")
    error = origin.fail()
    assert slow.calls == ["head"]
    flow.resume_reading()
    assert await slow.ended() == ["head", b"a", error]


async def test_what_one_cannot_read_the_others_still_get() -> None:
    def refuse() -> None:
        raise ProtocolError("too long")

    flights, origin, picky, easy = Flights(), Origin(), Client(at_piece=refuse), Client()
    await crowd(flights, origin, picky, easy)
    origin.head()
    origin.piece(b"a", b"b")
    origin.end()
    assert isinstance(picky.calls[-1], UpstreamBroken)
    assert picky.body == b"a"
    assert easy.calls == ["head", b"a", b"b", "end"]


# --- while it starts


async def test_joiners_may_come_while_it_connects() -> None:
    flights, origin, first, second = Flights(), Origin(slow=True), Client(), Client()
    beginning = asyncio.create_task(flights.begin(KEY, origin.start, first))
    await turns()
    assert flights.join(KEY, second) is not None
    origin.may_start.set()
    await beginning
    await turns()
    origin.head()
    origin.end()
    assert first.calls == second.calls == ["head", "end"]


async def test_a_start_that_fails_is_raised_to_the_first_and_told_to_the_others() -> None:
    flights, origin, first, second = Flights(), Origin(slow=True), Client(), Client()
    beginning = asyncio.create_task(flights.begin(KEY, origin.start, first))
    await turns()
    flights.join(KEY, second)
    origin.error = UpstreamUnreachable("refused")
    origin.may_start.set()
    with pytest.raises(UpstreamUnreachable) as raised:
        await beginning
    assert await second.ended() == [raised.value]
    await turns()
    assert first.calls == []
    assert len(flights) == 0


async def test_a_fault_of_our_own_leaves_nobody_waiting() -> None:
    flights, origin, first, second = Flights(), Origin(slow=True), Client(), Client()
    beginning = asyncio.create_task(flights.begin(KEY, origin.start, first))
    await turns()
    flights.join(KEY, second)
    origin.error = RuntimeError("a bug")
    origin.may_start.set()
    with pytest.raises(RuntimeError, match="a bug"):
        await beginning
    (error,) = await second.ended()
    assert isinstance(error, UpstreamBroken)


async def test_the_start_goes_on_for_the_others_when_the_first_is_cancelled() -> None:
    flights, origin, first, second = Flights(), Origin(slow=True), Client(), Client()
    beginning = asyncio.create_task(flights.begin(KEY, origin.start, first))
    await turns()
    flights.join(KEY, second)
    beginning.cancel()
    with pytest.raises(asyncio.CancelledError):
        await beginning
    assert not origin.cancelled
    origin.may_start.set()
    await turns()
    origin.head()
    origin.piece(b"a")
    origin.end()
    assert await second.ended() == ["head", b"a", "end"]
    assert first.calls == []


async def test_the_start_ends_when_nobody_waits_for_it() -> None:
    flights, origin, second = Flights(), Origin(slow=True), Client()
    beginning = asyncio.create_task(flights.begin(KEY, origin.start, Client()))
    await turns()
    flow = flights.join(KEY, second)
    assert flow is not None
    beginning.cancel()
    with pytest.raises(asyncio.CancelledError):
        await beginning
    flow.abort()
    await turns()
    assert origin.cancelled
    assert second.calls == []
    assert len(flights) == 0


async def test_an_exchange_that_began_for_nobody_is_ended() -> None:
    flights, origin = Flights(), Origin(slow=True)

    async def start(sink: Sink) -> Origin:
        # The connection is there in the moment in which the last one leaves.
        with contextlib.suppress(asyncio.CancelledError):
            await origin.may_start.wait()
        return origin

    beginning = asyncio.create_task(flights.begin(KEY, start, Client()))
    await turns()
    beginning.cancel()
    with pytest.raises(asyncio.CancelledError):
        await beginning
    await turns()
    assert origin.steered == ["abort"]


async def test_one_that_pauses_while_it_connects_holds_the_exchange_up_once_it_is_there() -> None:
    flights, origin = Flights(), Origin(slow=True)
    beginning = asyncio.create_task(flights.begin(KEY, origin.start, Client()))
    await turns()
    flow = flights.join(KEY, Client())
    assert flow is not None
    flow.pause_reading()
    beginning.cancel()
    with pytest.raises(asyncio.CancelledError):
        await beginning
    origin.may_start.set()
    await turns()
    assert origin.steered == ["pause"]


async def test_closing_tells_everyone_and_ends_what_runs_and_what_starts() -> None:
    flights, running, starting = Flights(), Origin(), Origin(slow=True)
    client, joiner = Client(), Client()
    await crowd(flights, running, client)
    beginning = asyncio.create_task(flights.begin(b"other", starting.start, Client()))
    await turns()
    flights.join(b"other", joiner)
    await flights.aclose()
    with pytest.raises(ShuttingDown):
        await beginning
    assert [type(call) for call in client.calls + joiner.calls] == [ShuttingDown, ShuttingDown]
    assert running.steered == ["abort"]
    assert starting.cancelled
    assert repr(flights) == "<Flights 0 joinable, 0 running>"


async def test_closing_in_the_moment_in_which_it_began_tells_the_first() -> None:
    flights, origin, client = Flights(), Origin(), Client()
    closing: list[asyncio.Task[None]] = []

    async def start(sink: Sink) -> Origin:
        closing.append(asyncio.create_task(flights.aclose()))
        return origin

    with pytest.raises(ShuttingDown):
        await flights.begin(KEY, start, client)
    await closing[0]
    assert origin.steered == ["abort"]
    assert client.calls == []


# --- together with recording


async def test_a_shared_reply_is_recorded_once() -> None:
    flights, origin, first, second = Flights(), Origin(), Client(), Client()
    found: list[Recorded] = []

    async def start(sink: Sink) -> Origin:
        recorder = Recorder(sink, Family.API, limit_bytes=1000, on_recorded=found.append, wall=lambda: 1.0)
        return await origin.start(recorder)

    await flights.begin(KEY, start, first)
    flights.join(KEY, second)
    await turns()
    done = b'{"done":true}\n'
    origin.head()
    origin.piece(done)
    origin.end()
    assert first.calls == second.calls == ["head", done, "end"]
    assert found == [Recorded(head_of(), (done,), 1.0)]
