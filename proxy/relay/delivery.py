"""One generation's reply on its way from Ollama to one client: a sink (``upstream.exchange.Sink``).

A reply is *passed* on byte for byte and chunk for chunk; or its frames are *mapped* one by one as they become whole;
or, for a client that asked for no stream, its frames are *gathered* and answered as one.

What must live here: the order of head, first token, pieces and end, and how a reply ends that cannot be completed.
What it must not know: why a request was sent as it was, and how long anything may take.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from proxy.errors import PilotlightError, UpstreamBroken
from proxy.observe.final import TAIL_BYTES, FinalRecord, read_final
from proxy.observe.first_token import ANSWER, TOKEN, FirstToken
from proxy.observe.timeline import REUSED_CACHE, Outcome, Timeline, outcome_of, server_timing
from proxy.relay.lane import FastLane
from proxy.relay.reply import with_type
from proxy.upstream.exchange import CUT_MESSAGE
from proxy.wire.headers import LENGTH, Field, end_to_end
from proxy.wire.http1 import whole_chunk
from proxy.wire.lines import LineSplitter
from proxy.wire.shapes import JSON_TYPE, stream_error, stream_separator

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from proxy.relay.mapping import Assembler, FrameMapper
    from proxy.relay.reply import ClientReply
    from proxy.upstream.exchange import Flow
    from proxy.wire.http1 import ReplyHead
    from proxy.wire.routes import Family

# An error of Ollama's is one line. What is larger is not looked at but passed on.
_LARGEST_HELD_BYTES: Final = 256 * 1024
# Pieces whose times and last bytes are noted before they are worked out.
_MOST_NOTED: Final = 32
# Of an error that ends a reply under way; every other one is the upstream's.
_OUTCOMES: Final = {503: Outcome.REJECTED, 504: Outcome.TIMEOUT}


@dataclass(frozen=True, slots=True)
class Held:
    """A short reply that was not passed on, because the relay wants to decide about it first."""

    head: ReplyHead
    body: bytes


@dataclass(slots=True)
class _Holding:
    head: ReplyHead
    pieces: list[bytes]
    size_bytes: int = 0


class Delivery:
    """Brings one reply to one client.

    Args:
        reply: The client's side.
        timeline: Gets the marks.
        added: Fields for the client's head.
        on_gaps: Told when pieces of a stream were passed on, many at once, and when the one before them was.
        clock: Monotonic seconds.
        mapper: Translates every frame, and every error.
        gather: The client asked for no stream; takes the (mapped) frames.
        holds: Whether a reply with this head is kept back for the relay to decide about.
        family: Whose shapes the reply has when it comes; ``None``: the timeline's.

    Attributes:
        done: Resolves when nothing more will come. Never fails; cancelled together with whoever awaits it.
        is_over: Nothing more will come. Not told by ``done``, which a client that leaves cancels.
        error: What went wrong, where something did.
        held: A short reply that was not passed on but kept for the relay to decide about.
        flow: The exchange; set once it began.
        is_queued: The request waits for its turn, so that nothing is to be expected yet.
    """

    def __init__(
        self,
        reply: ClientReply,
        timeline: Timeline,
        *,
        added: list[Field],
        on_gaps: Callable[[Sequence[float], float | None], None],
        clock: Callable[[], float],
        mapper: FrameMapper | None = None,
        gather: Assembler | None = None,
        holds: Callable[[ReplyHead], bool] = lambda head: False,
        family: Family | None = None,
    ) -> None:
        self._reply = reply
        self._timeline = timeline
        self._added = added
        self._on_gaps = on_gaps
        self._clock = clock
        self._mapper = mapper
        self._gather = gather
        self._holds = holds
        self._head: ReplyHead | None = None
        self._holding: _Holding | None = None
        self._lines: LineSplitter | None = None
        self._family = family or timeline.family
        self._tokens: FirstToken | None = None
        self._seeks_tokens = True
        self._is_stream = False
        self._times: list[float] = []
        self._kept: list[bytes] = []
        self._passed: list[bytes] = []
        self._loop = asyncio.get_running_loop()
        self.done: asyncio.Future[None] = self._loop.create_future()
        self.is_over = False
        self.error: PilotlightError | None = None
        self.held: Held | None = None
        self.flow: Flow | None = None
        self.is_queued = False
        self._settled_at = clock()

    def __repr__(self) -> str:
        return f"<Delivery {self._reply!r}{', held' if self.held else ''}{', failed' if self.error else ''}>"

    # --- the sink

    def on_head(self, head: ReplyHead) -> None:
        timeline, gathers = self._timeline, self._gather is not None
        self._settled_at = timeline.upstream_head = self._clock()
        self._head = head
        self._is_stream = is_stream = head.is_stream
        timeline.stream = is_stream and not gathers
        if is_stream and (gathers or self._mapper is not None):
            self._lines = LineSplitter()
            if not gathers:
                self._begin(head)
        elif self._holds(head) or self._mapper is not None:
            self._holding = _Holding(head, [])
        else:
            self._begin(head)

    def on_body(self, raw: bytes, payload: bytes) -> None:
        if self._holding is not None:
            self._hold(self._holding, payload)
            return
        if self._passed:
            self._unpack()
        if self._seeks_tokens:
            self._deliver_seeking(raw, payload)
        elif self._lines is None:
            self._reply.write_framed(raw, payload)
        else:
            self._translate(self._lines.feed(payload))
        # What is told of each piece is only noted here, and worked out for many at once.
        self._times.append(self._clock())
        self._kept.append(payload if len(payload) <= TAIL_BYTES else payload[-TAIL_BYTES:])
        if len(self._times) >= _MOST_NOTED:
            self.settle()

    def on_end(self) -> None:
        self._unpack()
        if self._holding is not None:
            held = Held(self._holding.head, b"".join(self._holding.pieces))
            if self._holds(held.head):
                self.held = held
            else:
                self.release(held)
        else:
            self._complete()
        self._finish()

    def on_failure(self, error: PilotlightError) -> None:
        self.error = error
        self._holding = None
        self._unpack()
        if self._reply.started:
            self._cut(error)
        self._finish()

    # --- for the relay

    @property
    def last_activity(self) -> float:
        """When something last came from the upstream."""
        return self._times[-1] if self._times else self._settled_at

    def note_activity(self) -> None:
        """Something happened that is no piece of the reply; silence counts from now."""
        self._settled_at = self._clock()

    def settle(self) -> None:
        """Work out what was noted of the pieces so far: gaps and counts into metrics and timeline, the tail kept."""
        times, timeline = self._times, self._timeline
        if not times:
            return
        self._unpack()
        # The pace of a kept answer is none of Ollama's.
        if self._is_stream and timeline.reused != REUSED_CACHE and (timeline.chunks or len(times) > 1):
            self._on_gaps(times, timeline.last_token if timeline.chunks else None)
        timeline.chunks += len(times)
        timeline.last_token = self._settled_at = times[-1]
        times.clear()
        self._kept[:] = [b"".join(self._kept)[-TAIL_BYTES:]]

    def _unpack(self) -> None:
        """Take in what went by the fast lane, chunks as they came."""
        for data in self._passed:
            payload = whole_chunk(data)
            self._reply.note_sent(payload)
            self._kept.append(payload)
        self._passed.clear()

    def on_writable(self, writable: bool) -> None:
        """The client's write buffer fell below its mark, or rose above it."""
        if self.flow is not None:
            if writable:
                self.flow.resume_reading()
            else:
                self.flow.pause_reading()

    def release(self, held: Held) -> None:
        """Pass on what was held, translated where that is due."""
        status = held.head.status
        body = held.body
        if self._mapper is not None:
            body = self._mapper.map_body(status, body)
            if status == 200:
                self._kept[:] = [held.body[-TAIL_BYTES:]]
                self._read_final()
                self._note_finish()
        self._answer(held.head, status, body)

    def fail(self, error: PilotlightError) -> None:
        """End the reply from our side: a limit passed, or we stop."""
        if not self.is_over:
            if self.flow is not None:
                self.flow.abort()
            self.on_failure(error)

    # --- beginning

    def _begin(self, head: ReplyHead) -> None:
        is_same = self._mapper is None and self._gather is None
        kind = b"" if is_same else self._kind(head.status)
        self._reply.start_like(head, self._announce(head.status), kind)
        # The first piece came with the head, as a rule, and takes it along. It is asked for here, because to have the
        # loop come back for the head costs a tenth of this way, and is seldom of use.
        if self.flow is not None:
            self.flow.take_whole_chunks(self, self._take_chunk)
        if self._reply.unsent:
            self._loop.call_soon(self._reply.flush)

    def _take_chunk(self, data: bytes) -> bool:
        """The lane until there is a fast one: a whole chunk is taken as the piece that it is."""
        payload = whole_chunk(data)
        if payload:
            self.on_body(data, payload)
        return bool(payload)

    def _announce(self, status: int) -> list[Field]:
        """Note the status that the client gets; the fields of our own that go with it."""
        timeline = self._timeline
        timeline.status = status
        if status >= 400:
            timeline.outcome = outcome_of(status)
        timing = server_timing(timeline)
        return [*self._added, (b"Server-Timing", timing)] if timing else self._added

    def _answer(self, head: ReplyHead, status: int, body: bytes) -> None:
        """A complete reply under a head whose body was replaced."""
        own = self._announce(status)
        kind = self._kind(status)
        replaced = end_to_end(with_type(head.fields, kind) if kind else head.fields, LENGTH)
        replaced.append((b"Content-Length", b"%d" % len(body)))
        reason = head.reason if status == head.status else b""
        self._reply.start(status, reason, replaced + own, has_length=True, held=True)
        self._reply.write(body)
        self._reply.end()
        if self._timeline.first_byte is None:
            self._timeline.first_byte = self._clock()

    def _kind(self, status: int) -> bytes:
        """What stands in place of the upstream's ``Content-Type``; empty: that stays."""
        kind = JSON_TYPE if self._gather is not None else b""
        return kind if self._mapper is None else self._mapper.content_type(status) or kind

    # --- pieces

    def _hold(self, holding: _Holding, payload: bytes) -> None:
        holding.pieces.append(payload)
        holding.size_bytes += len(payload)
        # What is to be mapped is held however large it is.
        if holding.size_bytes > _LARGEST_HELD_BYTES and self._mapper is None:
            self._holding = None
            self._begin(holding.head)
            self._reply.write(b"".join(holding.pieces))

    def _translate(self, lines: list[bytes]) -> bytes:
        """Map or gather lines; what was written."""
        if self._mapper is not None:
            lines = [self._mapper.map_frame(line) for line in lines]
        if self._gather is None:
            written = lines[0] if len(lines) == 1 else b"".join(lines)
            self._reply.write(written)
            return written
        for line in lines:
            self._gather.add(line)
        return b""

    def _deliver_seeking(self, raw: bytes, payload: bytes) -> None:
        """A piece that may hold the first token of the reply, or of its answer."""
        timeline = self._timeline
        read = self._clock()
        if self._lines is None:
            self._reply.write_framed(raw, payload)
        else:
            written = self._translate(self._lines.feed(payload))
            payload = payload if self._gather is not None else written
        if timeline.first_byte is None and self._reply.started:
            timeline.first_byte = self._clock()
        if not self._is_stream:
            self._seeks_tokens = False
            return
        if self._tokens is None:
            # What is gathered is never written as it came; everything else is looked at as the client gets it.
            self._tokens = FirstToken(self._family if self._gather is not None else timeline.family)
        found = self._tokens.feed(payload)
        if found & TOKEN:
            timeline.token_read = read
            timeline.first_token = self._clock()
        if found & ANSWER:
            timeline.first_answer = self._clock()
        if self._tokens.done:
            self._seeks_tokens = False
            self._open_fast_lane()

    def _open_fast_lane(self) -> None:
        if self._lines is not None or self.flow is None or not self._reply.passes_chunks:
            return
        lane = FastLane(self._reply.send, self._clock, self._times, self._passed, self.settle, _MOST_NOTED)
        self.flow.take_whole_chunks(self, lane.take)

    # --- ending

    def _complete(self) -> None:
        """The upstream's body ended as HTTP wants it; whether the answer did is in its last frame."""
        record = self._read_final()
        unfinished = self._is_stream and _is_unfinished(record)
        self._timeline.incomplete = unfinished
        if unfinished and self._gather is None:
            # Ollama ends /v1 streams like this when it lost a runner (measured on 0.24.0), and other servers cut
            # cleanly too: a client must not take it for a whole answer.
            self.error = UpstreamBroken(CUT_MESSAGE)
            if self._reply.started:
                self._cut(self.error)
            return
        if self._mapper is not None and self._mapper.error and self._gather is None:
            # The frames ended with an error, and a clean end would be taken for that of an answer.
            self.error = UpstreamBroken(self._mapper.error)
            self._cut(self.error)
            return
        if self._gather is not None and self._lines is not None and self._head is not None:
            try:
                status, body = self._gather.finish()
            except UpstreamBroken as error:
                self.error = error
            else:
                self._answer(self._head, status, body)
        else:
            self._reply.end()
        self._note_finish()

    def _note_finish(self) -> None:
        if self._mapper is not None and self._mapper.finish_reason:
            self._timeline.done_reason = self._mapper.finish_reason

    def _read_final(self) -> FinalRecord | None:
        if self._timeline.status not in (0, 200):
            return None
        record = read_final(b"".join(self._kept), self._family, stream=self._is_stream)
        if record is not None:
            record.onto(self._timeline)
            if record.failed:
                self._timeline.outcome = Outcome.UPSTREAM_ERROR
        return record

    def _cut(self, error: PilotlightError) -> None:
        timeline = self._timeline
        timeline.incomplete = True
        timeline.error_code = error.code
        timeline.outcome = _OUTCOMES.get(error.status, Outcome.UPSTREAM_ERROR)
        if self._is_stream:
            separator = stream_separator(timeline.family, self._reply.tail)
            frame = separator + stream_error(timeline.family, error.message, error.code)
            owed, owes_line_end = (0, False) if self._lines or self.flow is None else self.flow.open_chunk
            self._reply.fail(frame, owed_bytes=owed, owes_line_end=owes_line_end)
        else:
            self._reply.fail(b"")

    def _finish(self) -> None:
        self.settle()
        self.is_over = True
        if not self.done.done():
            self.done.set_result(None)


def _is_unfinished(record: FinalRecord | None) -> bool:
    """An error frame of Ollama's own ends a stream as well as a final record does."""
    return record is None or (record.failed and not record.error)
