"""Recording a reply while it is relayed, and playing it to a sink as if it came from Ollama now.

What must live here: what counts as a complete answer, and the pace of a replay. What it must not know: keys, and who
the client is. A replay is the same whether its tape is finished (a stored answer) or still grows (``shared``).
"""

from __future__ import annotations

import asyncio
import re
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, Final

import orjson

from proxy.errors import UpstreamBroken
from proxy.observe.final import read_final
from proxy.reuse.store import Recorded
from proxy.wire.headers import first, has_token
from proxy.wire.http1 import ProtocolError, chunk
from proxy.wire.lines import LineSplitter
from proxy.wire.routes import Family

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.errors import PilotlightError
    from proxy.upstream.exchange import Sink
    from proxy.wire.http1 import ReplyHead

BATCH_BYTES: Final = 64 * 1024
"""How much a replay gives its sink in one turn of the event loop: the mark of a write buffer, as asyncio sets it."""

# Ollama answers these to a request that has nothing to generate from: they are about the model at that moment.
_ABOUT_THE_MODEL: Final = ("load", "unload")
_EVENT = re.compile(rb".*?\n\n|.+", re.DOTALL)


def _untold(replay: Replay) -> None:
    """Nobody else has to know."""


def _ignored() -> None:
    """Nobody else is steered."""


# --- recording


class Recorder:
    """A sink around another one: passes everything on at once and unchanged, and remembers it.

    Args:
        sink: Gets the reply.
        family: Whose shapes the reply has.
        limit_bytes: A longer body is not recorded.
        on_recorded: Gets a complete answer, after the sink has had its end. Nothing that was cut, failed or was too
            long ever gets there.
        wall: Seconds since the epoch.
    """

    __slots__ = ("_family", "_head", "_limit_bytes", "_on_recorded", "_pieces", "_sink", "_size_bytes", "_wall")

    def __init__(
        self,
        sink: Sink,
        family: Family,
        *,
        limit_bytes: int,
        on_recorded: Callable[[Recorded], None],
        wall: Callable[[], float],
    ) -> None:
        self._sink = sink
        self._family = family
        self._limit_bytes = limit_bytes
        self._on_recorded = on_recorded
        self._wall = wall
        self._head: ReplyHead | None = None
        self._pieces: list[bytes] = []
        self._size_bytes = 0

    def __repr__(self) -> str:
        return f"<Recorder {self._size_bytes} bytes{'' if self._head else ', not recording'}>"

    def on_head(self, head: ReplyHead) -> None:
        self._sink.on_head(head)
        if _may_be_kept(head):
            self._head = head

    def on_body(self, raw: bytes, payload: bytes) -> None:
        self._sink.on_body(raw, payload)
        if self._head is None:
            return
        self._size_bytes += len(payload)
        if self._size_bytes > self._limit_bytes:
            self._give_up()
        else:
            self._pieces.append(payload)

    def on_end(self) -> None:
        self._sink.on_end()
        if self._head is None:
            return
        body = b"".join(self._pieces)
        if is_complete(body, self._family, stream=self._head.is_stream):
            self._on_recorded(Recorded(self._head, _cut(body, self._head), self._wall()))
        self._give_up()

    def on_failure(self, error: PilotlightError) -> None:
        self._give_up()
        self._sink.on_failure(error)

    def _give_up(self) -> None:
        self._head = None
        self._pieces = []


def is_complete(body: bytes, family: Family, *, stream: bool) -> bool:
    """Whether a body of status 200 is a whole answer that may be given again.

    Args:
        body: All of it.
        family: Whose shapes it has.
        stream: Frames, else one JSON object.
    """
    record = read_final(body, family, stream=stream)
    if record is None or not record.complete or record.failed or record.done_reason in _ABOUT_THE_MODEL:
        return False
    if stream and family is not Family.API:
        return True
    # ``read_final`` sees the last bytes only and must guess where a line is longer; here all of it is at hand.
    whole = _parsed(body.rstrip().rpartition(b"\n")[2] if stream else body)
    return whole is not None and not whole.get("error") and whole.get("done", not stream) is True


def _may_be_kept(head: ReplyHead) -> bool:
    """A plain success whose bytes do not depend on what the request said about encodings and the like.

    ``Vary: Origin`` is Ollama's own (gin-contrib/cors); the key takes care of it (``Keys.of``, ``varies``).
    """
    vary = b",".join(value for name, value in head.fields if name.lower() == b"vary")
    return (
        head.status == 200
        and first(head.fields, b"content-encoding") is None
        and not has_token(head.fields, b"cache-control", b"no-store")
        and {name.strip().lower() for name in vary.split(b",")} <= {b"", b"origin"}
    )


def _cut(body: bytes, head: ReplyHead) -> tuple[bytes, ...]:
    """One piece for each frame, however the frames arrived; what is no stream in pieces that a replay can pause at."""
    if head.content_type == b"text/event-stream":
        return tuple(_EVENT.findall(body))
    if head.is_stream:
        return tuple(LineSplitter().feed(body))
    return tuple(body[at : at + BATCH_BYTES] for at in range(0, len(body), BATCH_BYTES))


def _parsed(data: bytes) -> dict[str, Any] | None:
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


# --- replaying


class Tape:
    """A reply as far as it is there, held once for everyone who reads it.

    Attributes:
        head: Once it came.
        pieces: Of the body, without those that were dropped.
        dropped: How many pieces are gone from the front.
        total_bytes: Of the body, the dropped ones included.
        whole: The end came.
        error: The exchange failed.
    """

    __slots__ = ("dropped", "error", "head", "pieces", "total_bytes", "whole")

    def __init__(self) -> None:
        self.head: ReplyHead | None = None
        self.pieces: list[bytes] = []
        self.dropped = 0
        self.total_bytes = 0
        self.whole = False
        self.error: PilotlightError | None = None

    def __repr__(self) -> str:
        return f"<Tape {len(self.pieces)} pieces, {self.total_bytes} bytes{', whole' if self.whole else ''}>"

    @property
    def is_over(self) -> bool:
        return self.whole or self.error is not None

    def append(self, piece: bytes) -> None:
        self.pieces.append(piece)
        self.total_bytes += len(piece)

    def drop_before(self, position: int) -> None:
        """Forget the pieces in front of a position, counted from the beginning of the reply."""
        if position > self.dropped:
            del self.pieces[: position - self.dropped]
            self.dropped = position


class Replay:
    """Plays a tape to a sink: a flow (``relay.delivery.Flow``) like that of an exchange.

    It gives at most :data:`BATCH_BYTES` in one turn of the event loop, nothing while it is paused, and after
    :meth:`abort` it never calls the sink. Every piece is one chunk where the head says chunks.

    Args:
        tape: What is played; it may still grow, and whoever makes it grow calls :meth:`poke`.
        sink: Gets it.
        on_over: Told once, before the sink has its end: nothing more will come.
        on_steered: Told after each pause and resumption.

    Attributes:
        position: How many pieces the sink has had.
        is_paused: The sink wants nothing for now.
        is_over: The sink is not called any more.
    """

    __slots__ = (
        "_handle",
        "_has_begun",
        "_has_head",
        "_loop",
        "_on_over",
        "_on_steered",
        "_sink",
        "_taken_bytes",
        "_tape",
        "is_over",
        "is_paused",
        "position",
    )

    def __init__(
        self,
        tape: Tape,
        sink: Sink,
        *,
        on_over: Callable[[Replay], None] = _untold,
        on_steered: Callable[[], None] = _ignored,
    ) -> None:
        self._tape = tape
        self._sink = sink
        self._on_over = on_over
        self._on_steered = on_steered
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.Handle | None = None
        self._has_begun = False
        self._has_head = False
        self._taken_bytes = 0
        self.position = 0
        self.is_paused = False
        self.is_over = False

    def __repr__(self) -> str:
        state = "over" if self.is_over else "paused" if self.is_paused else "playing"
        return f"<Replay {state}, {self.position} of {self._tape!r}>"

    @property
    def lag_bytes(self) -> int:
        """How much of what is there the sink has not had."""
        return self._tape.total_bytes - self._taken_bytes

    def begin(self) -> None:
        """Play from the next turn of the event loop on, as an exchange would."""
        self._has_begun = True
        self._schedule()

    def poke(self) -> None:
        """There is more on the tape. A sink that had everything gets it within this call."""
        if self._has_begun and self._handle is None:
            self._play()

    def fail(self, error: PilotlightError) -> None:
        """End it at once; a sink that has not begun is not told."""
        if not self.is_over:
            self._finish()
            if self._has_begun:
                self._sink.on_failure(error)

    # --- the flow

    def pause_reading(self) -> None:
        self._steer(True)

    def resume_reading(self) -> None:
        self._steer(False)
        if self._has_begun:
            self._schedule()

    def abort(self) -> None:
        """The sink is not called any more. Safe to call at any time."""
        if not self.is_over:
            self._finish()

    def take_whole_chunks(self, sink: Sink, lane: Callable[[bytes], bool]) -> None:
        """Nothing comes framed from a tape."""

    @property
    def open_chunk(self) -> tuple[int, bool]:
        """Every chunk is whole: there is never one to complete."""
        return 0, False

    # --- playing

    def _steer(self, is_paused: bool) -> None:
        if self.is_paused is not is_paused:
            self.is_paused = is_paused
            self._on_steered()

    def _schedule(self) -> None:
        if self._handle is None and not self.is_over:
            self._handle = self._loop.call_soon(self._play)

    def _play(self) -> None:
        self._handle = None
        try:
            self._play_batch()
        except (ProtocolError, ValueError) as error:
            # As in upstream.exchange: the sink cannot read what came. It concerns this sink alone.
            if not self.is_over:
                self._finish()
            self._sink.on_failure(UpstreamBroken(f"the upstream's reply is malformed: {error}"))

    def _play_batch(self) -> None:
        tape, sink = self._tape, self._sink
        head = tape.head
        if head is not None and not self._has_head and not self.is_over:
            self._has_head = True
            sink.on_head(head)
        left_bytes = BATCH_BYTES
        while not self.is_over:
            if self.position == tape.dropped + len(tape.pieces):
                self._end()
                return
            if self.is_paused:
                return
            if left_bytes <= 0:
                self._schedule()
                return
            piece = tape.pieces[self.position - tape.dropped]
            self.position += 1
            self._taken_bytes += len(piece)
            left_bytes -= len(piece)
            is_counted = head is not None and head.keeps_length
            sink.on_body(piece if is_counted else chunk(piece), piece)

    def _end(self) -> None:
        """The sink has had every piece there is."""
        error = self._tape.error
        if error is not None:
            self._finish()
            self._sink.on_failure(error)
        elif self._tape.whole:
            self._finish()
            self._sink.on_end()

    def _finish(self) -> None:
        self.is_over = True
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self._on_over(self)


def replay(recorded: Recorded, sink: Sink, *, now: float) -> Replay:
    """Play a stored answer.

    Args:
        recorded: The answer.
        sink: Gets it, from the next turn of the event loop on.
        now: Seconds since the epoch.
    """
    tape = Tape()
    tape.head = _aged(recorded, now)
    tape.pieces = list(recorded.pieces)
    tape.total_bytes = sum(map(len, tape.pieces))
    tape.whole = True
    playing = Replay(tape, sink)
    playing.begin()
    return playing


def _aged(recorded: Recorded, now: float) -> ReplyHead:
    """The head with the ``Date`` of now (RFC 9110 5.6.7) and the answer's ``Age`` (RFC 9111 5.1)."""
    fields = [
        (name, formatdate(now, usegmt=True).encode()) if name.lower() == b"date" else (name, value)
        for name, value in recorded.head.fields
        if name.lower() != b"age"
    ]
    fields.append((b"Age", b"%d" % max(0, now - recorded.recorded_at)))
    return recorded.head._replace(fields=tuple(fields))
