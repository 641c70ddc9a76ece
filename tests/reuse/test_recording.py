"""Only whole answers are recorded, the relaying does not notice, and a replay is a reply like any other."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import PilotlightError, UpstreamBroken
from proxy.reuse.recording import BATCH_BYTES, Recorder, Replay, is_complete, replay
from proxy.reuse.store import Recorded
from proxy.upstream.exchange import UpstreamConnection
from proxy.wire.headers import first
from proxy.wire.http1 import ProtocolError, chunk, parse_head
from proxy.wire.routes import Family

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from proxy.wire.http1 import ReplyHead

LINES = b"application/x-ndjson"
EVENTS = b"text/event-stream"
JSON = b"application/json; charset=utf-8"
DONE = b'{"model":"m","done":true,"done_reason":"stop"}\n'
TOKEN = b'{"model":"m","response":"a","done":false}\n'
EMBEDDING = b'{"model":"m","embeddings":[[1.0]]}'
WALL = 1_000_000.0


def head_of(kind: bytes = LINES, *more: bytes, status: int = 200, length: int | None = None) -> ReplyHead:
    framing = b"Transfer-Encoding: chunked" if length is None else b"Content-Length: %d" % length
    head = parse_head(b"\r\n".join([b"HTTP/1.1 %d X" % status, b"Content-Type: " + kind, framing, *more]))
    assert head is not None
    return head


class Client:
    """A sink that remembers, in order, and may do something at each call."""

    def __init__(self, at_piece: Callable[[], None] = lambda: None) -> None:
        self.calls: list[object] = []
        self.pieces: list[bytes] = []
        self.raw = b""
        self.at_piece = at_piece
        self.over = asyncio.Event()

    def on_head(self, head: ReplyHead) -> None:
        self.head = head
        self.calls.append("head")

    def on_body(self, raw: bytes, payload: bytes) -> None:
        self.calls.append(payload)
        self.pieces.append(payload)
        self.raw += raw
        self.at_piece()

    def on_end(self) -> None:
        self.calls.append("end")
        self.over.set()

    def on_failure(self, error: PilotlightError) -> None:
        self.calls.append(error)
        self.over.set()

    async def whole(self) -> None:
        async with asyncio.timeout(5):
            await self.over.wait()


class Taping:
    """A recorder between a sink and the exchange that the test plays."""

    def __init__(self, family: Family = Family.API, limit_bytes: int = 10_000) -> None:
        self.client = Client()
        self.found: list[Recorded] = []
        self.recorder = Recorder(
            self.client, family, limit_bytes=limit_bytes, on_recorded=self._take, wall=lambda: WALL
        )

    def _take(self, recorded: Recorded) -> None:
        assert self.client.calls[-1] == "end"
        self.found.append(recorded)

    def relay(self, head: ReplyHead, *payloads: bytes) -> list[Recorded]:
        self.recorder.on_head(head)
        for payload in payloads:
            self.recorder.on_body(payload if head.length_bytes is not None else chunk(payload), payload)
        self.recorder.on_end()
        return self.found


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


# --- recording


async def test_a_whole_stream_is_recorded_once_the_client_has_it() -> None:
    taping = Taping()
    (recorded,) = taping.relay(head_of(), TOKEN, DONE)
    assert recorded == Recorded(head_of(), (TOKEN, DONE), WALL)
    assert taping.client.calls == ["head", TOKEN, DONE, "end"]
    assert taping.client.raw == chunk(TOKEN) + chunk(DONE)


@given(cuts=st.lists(st.integers(0, len(TOKEN * 2 + DONE)), max_size=6))
def test_frames_are_recorded_one_by_one_however_they_came(cuts: list[int]) -> None:
    async def test() -> None:
        body = TOKEN * 2 + DONE
        places = [0, *sorted(cuts), len(body)]
        (recorded,) = Taping().relay(head_of(), *(body[a:b] for a, b in itertools.pairwise(places)))
        assert recorded.pieces == (TOKEN, TOKEN, DONE)

    asyncio.run(test())


async def test_events_are_recorded_one_by_one() -> None:
    events = (b'data: {"model":"m","choices":[{"finish_reason":"stop"}]}\n\n', b"data: [DONE]\n\n")
    (recorded,) = Taping(Family.OPENAI).relay(head_of(EVENTS), b"".join(events))
    assert recorded.pieces == events
    named = (b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn"}}\n\n',)
    named += (b'event: message_stop\ndata: {"type":"message_stop"}\n\n',)
    (recorded,) = Taping(Family.ANTHROPIC).relay(head_of(EVENTS), b"".join(named))
    assert recorded.pieces == named


async def test_a_large_whole_reply_is_recorded_in_pieces_that_a_replay_can_pause_at() -> None:
    body = b'{"model":"m","embeddings":[[%b1]]}' % (b"0.25," * 40_000)
    (recorded,) = Taping(limit_bytes=1 << 20).relay(head_of(JSON, length=len(body)), body)
    assert [len(piece) for piece in recorded.pieces] == [BATCH_BYTES] * 3 + [len(body) - 3 * BATCH_BYTES]
    assert b"".join(recorded.pieces) == body


NEVER = [
    (head_of(), [TOKEN], "no final record"),
    (head_of(), [TOKEN, DONE[:-1]], "a final record that was cut"),
    (head_of(), [TOKEN, b'{"error":"the runner died"}\n'], "an error line"),
    (head_of(), [TOKEN, b'{"error":"%b"}\n' % (b"x" * 5000)], "an error line that is longer than what is looked at"),
    (head_of(), [b'{"model":"m","done":true,"done_reason":"load"}\n'], "a load"),
    (head_of(), [b'{"model":"m","done":true,"done_reason":"unload"}\n'], "an unload"),
    (head_of(), [b'{"status":"success"}\n'], "no answer at all"),
    (head_of(), [TOKEN * 1000, DONE], "too long"),
    (head_of(), [], "nothing"),
    (head_of(status=500), [TOKEN, DONE], "a status"),
    (head_of(status=206), [TOKEN, DONE], "a part"),
    (head_of(LINES, b"Content-Encoding: gzip"), [TOKEN, DONE], "an encoding"),
    (head_of(LINES, b"Cache-Control: private, no-store"), [TOKEN, DONE], "no-store"),
    (head_of(LINES, b"Vary: Origin, Accept-Language"), [TOKEN, DONE], "what varies"),
    (head_of(JSON), [b'{"error":"no"}'], "an error under 200"),
    (head_of(JSON), [b'{"model":"m","response":"a","done":false}'], "a whole reply that is not done"),
    (head_of(JSON), [b'{"model":"m","done":true,"done_reason":"load"}'], "a whole load"),
    (head_of(JSON), [EMBEDDING[:-1]], "no JSON"),
    (head_of(JSON), [b"[" * 3000 + b"}"], "no JSON that ends like an object"),
    (head_of(JSON), [b"[1]"], "no object"),
]


@pytest.mark.parametrize(("head", "payloads"), [row[:2] for row in NEVER], ids=[row[2] for row in NEVER])
async def test_what_is_not_a_whole_answer_is_passed_on_and_not_recorded(
    head: ReplyHead, payloads: Sequence[bytes]
) -> None:
    taping = Taping()
    assert taping.relay(head, *payloads) == []
    assert taping.client.calls == ["head", *payloads, "end"]


async def test_a_v1_stream_whose_runner_died_is_not_recorded() -> None:
    taping = Taping(Family.OPENAI)
    assert taping.relay(head_of(EVENTS), b'data: {"model":"","choices":[]}\n\n') == []


async def test_a_failure_is_passed_on_and_nothing_is_recorded() -> None:
    taping = Taping()
    error = UpstreamBroken("cut")
    taping.recorder.on_head(head_of())
    taping.recorder.on_body(chunk(DONE), DONE)
    taping.recorder.on_failure(error)
    assert (taping.client.calls, taping.found) == (["head", DONE, error], [])


@pytest.mark.parametrize("more", [[], [b"Vary: Origin"]])
async def test_embeddings_are_recorded(more: list[bytes]) -> None:
    assert len(Taping().relay(head_of(JSON, *more, length=len(EMBEDDING)), EMBEDDING)) == 1
    assert len(Taping().relay(head_of(JSON, *more), EMBEDDING)) == 1


def test_a_null_error_is_none() -> None:
    assert is_complete(b'{"status":"completed","error":null}', Family.RESPONSES, stream=False)


async def test_a_final_record_with_all_its_context_is_complete() -> None:
    last = b'{"model":"m","done":true,"context":[%b1],"done_reason":"stop"}\n' % (b"1," * 3000)
    assert is_complete(TOKEN + last, Family.API, stream=True)


async def test_pieces_of_framing_alone_are_passed_on() -> None:
    taping = Taping()
    taping.recorder.on_head(head_of())
    taping.recorder.on_body(b"5\r\n", b"")
    assert taping.client.raw == b"5\r\n"


# --- replaying


def stored(*pieces: bytes, head: ReplyHead | None = None) -> Recorded:
    return Recorded(head or head_of(), pieces, WALL)


async def test_a_replay_gives_the_same_pieces_chunk_by_chunk() -> None:
    client = Client()
    replay(stored(TOKEN, DONE), client, now=WALL)
    assert client.calls == []
    await client.whole()
    assert client.calls == ["head", TOKEN, DONE, "end"]
    assert client.raw == chunk(TOKEN) + chunk(DONE)


async def test_a_replay_of_a_counted_body_has_no_chunks() -> None:
    client = Client()
    replay(stored(EMBEDDING, head=head_of(JSON, length=len(EMBEDDING))), client, now=WALL)
    await client.whole()
    assert client.raw == EMBEDDING


async def test_a_replay_of_what_ended_with_the_connection_is_framed() -> None:
    client = Client()
    head = parse_head(b"HTTP/1.0 200 OK\r\nContent-Type: application/x-ndjson")
    replay(stored(DONE, head=head), client, now=WALL)
    await client.whole()
    assert client.raw == chunk(DONE)


async def test_an_empty_body_has_a_head_and_an_end() -> None:
    client = Client()
    replay(stored(head=head_of(JSON, length=0)), client, now=WALL)
    await client.whole()
    assert client.calls == ["head", "end"]


async def test_the_head_says_when_it_is_and_how_old_it_is() -> None:
    client = Client()
    head = head_of(LINES, b"Date: Sat, 21 Nov 2026 04:45:16 GMT", b"X-Other: as it was", b"Age: 5")
    replay(stored(DONE, head=head), client, now=WALL + 61.9)
    await client.whole()
    assert first(client.head.fields, b"date") == b"Mon, 12 Jan 1970 13:47:41 GMT"
    assert [value for name, value in client.head.fields if name == b"Age"] == [b"61"]
    assert first(client.head.fields, b"x-other") == b"as it was"
    assert client.head._replace(fields=()) == head._replace(fields=())


async def test_a_clock_that_went_back_makes_no_negative_age() -> None:
    client = Client()
    replay(stored(DONE), client, now=WALL - 5)
    await client.whole()
    assert first(client.head.fields, b"age") == b"0"


async def test_a_paused_replay_gives_nothing_and_goes_on_where_it_was() -> None:
    flow: Replay
    client = Client(at_piece=lambda: flow.pause_reading())
    flow = replay(stored(b"a", b"b", b"c"), client, now=WALL)
    await turns()
    assert client.pieces == [b"a"]
    flow.resume_reading()
    await turns()
    assert client.pieces == [b"a", b"b"]
    client.at_piece = lambda: None
    flow.resume_reading()
    await client.whole()
    assert client.calls == ["head", b"a", b"b", b"c", "end"]


async def test_a_replay_that_was_paused_before_it_began_gives_its_head_only() -> None:
    client = Client()
    flow = replay(stored(b"a"), client, now=WALL)
    flow.pause_reading()
    await turns()
    assert client.calls == ["head"]


async def test_an_aborted_replay_never_calls_its_sink_again() -> None:
    flow: Replay
    client = Client(at_piece=lambda: flow.abort())
    flow = replay(stored(b"a", b"b"), client, now=WALL)
    await turns()
    assert client.calls == ["head", b"a"]
    flow.resume_reading()
    flow.abort()
    await turns()
    assert client.calls == ["head", b"a"]


async def test_a_replay_aborted_at_once_calls_nothing() -> None:
    client = Client()
    replay(stored(b"a"), client, now=WALL).abort()
    await turns()
    assert client.calls == []


async def test_a_long_replay_lets_others_have_their_turn() -> None:
    client = Client()
    replay(stored(*[b"x" * 1024] * 200), client, now=WALL)
    seen = []
    while not client.over.is_set():
        await asyncio.sleep(0)
        seen.append(len(client.pieces))
    assert [now - before for before, now in itertools.pairwise([0, *seen])] == [64, 64, 64, 8]


async def test_a_sink_that_cannot_read_what_comes_is_told_that_it_is_malformed() -> None:
    def refuse() -> None:
        raise ProtocolError("no line end")

    client = Client(at_piece=refuse)
    replay(stored(b"a", b"b"), client, now=WALL)
    await client.whole()
    assert client.calls[:2] == ["head", b"a"]
    (error,) = client.calls[2:]
    assert isinstance(error, UpstreamBroken)
    assert error.message == "the upstream's reply is malformed: no line end"


async def test_no_chunk_of_a_replay_is_ever_open() -> None:
    assert replay(stored(b"a"), Client(), now=WALL).open_chunk == (0, False)


def test_a_replay_steers_as_an_exchange_does() -> None:
    for name in ("pause_reading", "resume_reading", "abort", "open_chunk"):
        assert hasattr(Replay, name)
        assert hasattr(UpstreamConnection, name)
