"""One run at Ollama: a place, the model loaded as it has to be, an exchange. What is held is let go of exactly once.

Mostly a turn lives and dies with the call that took it. Where several calls share a run it belongs to the run, because
the call that began it may leave before the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from proxy.observe.final import Tail, read_final

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from types import TracebackType

    from proxy.admission.gate import Place
    from proxy.errors import PilotlightError
    from proxy.observe.timeline import Timeline
    from proxy.residency.service import Residency
    from proxy.rewrite.facts import ModelFacts
    from proxy.upstream.exchange import Flow, Sink
    from proxy.wire.http1 import ReplyHead
    from proxy.wire.routes import Family


class Turn:
    """A place at the gate, and what residency and the timeline are told of it.

    Args:
        place: Not entered yet.
        facts: About the model.
        residency: Does not bring another model back while somebody waits for this one.
        timeline: Gets the wait; ``None`` for a run that is no call's.
        clock: Monotonic seconds.
    """

    __slots__ = ("_clock", "_facts", "_has_left", "_place", "_residency", "_timeline")

    def __init__(
        self,
        place: Place,
        facts: ModelFacts,
        residency: Residency,
        timeline: Timeline | None,
        clock: Callable[[], float],
    ) -> None:
        self._place = place
        self._facts = facts
        self._residency = residency
        self._timeline = timeline
        self._clock = clock
        self._has_left = True

    async def enter(self) -> None:
        """Wait for the place.

        Raises:
            Overloaded: The queue is full, or it waited too long.
        """
        woken = self._place.begin()
        if woken is not None:
            await self._wait(woken)
        self._has_left = False

    async def _wait(self, woken: asyncio.Future[None]) -> None:
        began = self._clock()
        self._residency.queues(self._facts, 1)
        try:
            await self._place.until(woken)
        except BaseException:
            self._note(self._clock() - began)
            raise
        finally:
            self._residency.queues(self._facts, -1)
        self._note(self._place.waited_s)

    def _note(self, waited_s: float) -> None:
        if self._timeline is not None:
            self._timeline.queue_s += waited_s

    def leave(self) -> None:
        """Free the place. Idempotent."""
        if not self._has_left:
            self._has_left = True
            self._place.leave()

    async def __aenter__(self) -> Self:
        await self.enter()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()


class SharedRun:
    """The exchange of a run that several calls share: sink towards Ollama, flow towards those calls.

    Args:
        sink: Gets the reply.
        family: Whose shapes it has.
        on_over: Told once that it ended: the ``load_duration`` in seconds where the reply tells it, and whether it
            ended as it should.
    """

    def __init__(self, sink: Sink, family: Family, on_over: Callable[[float | None, bool], None]) -> None:
        self._sink = sink
        self._family = family
        self._on_over = on_over
        self._tail = Tail()
        self._is_stream = False
        self._status = 0
        self._is_over = False
        self.flow: Flow | None = None

    # --- the sink

    def on_head(self, head: ReplyHead) -> None:
        self._is_stream = head.is_stream
        self._status = head.status
        self._sink.on_head(head)

    def on_body(self, raw: bytes, payload: bytes) -> None:
        self._tail.feed(payload)
        self._sink.on_body(raw, payload)

    def on_end(self) -> None:
        record = read_final(self._tail.read(), self._family, stream=self._is_stream) if self._status == 200 else None
        is_answer = record is not None and not record.failed
        # A refusal is no fault of Ollama's.
        ok = is_answer or 400 <= self._status < 500
        self.over(None if record is None else record.load_duration_s, ok=ok)
        self._sink.on_end()

    def on_failure(self, error: PilotlightError) -> None:
        self.over(None, ok=False)
        self._sink.on_failure(error)

    # --- the flow

    def pause_reading(self) -> None:
        if self.flow is not None:
            self.flow.pause_reading()

    def resume_reading(self) -> None:
        if self.flow is not None:
            self.flow.resume_reading()

    def abort(self) -> None:
        """The last call has left."""
        if self.flow is not None:
            self.flow.abort()
        self.over(None, ok=True)

    def take_whole_chunks(self, sink: Sink, lane: Callable[[bytes], bool]) -> None:
        """What several calls get has several ways."""

    @property
    def open_chunk(self) -> tuple[int, bool]:
        return (0, False) if self.flow is None else self.flow.open_chunk

    def over(self, load_s: float | None, *, ok: bool) -> None:
        if not self._is_over:
            self._is_over = True
            self._on_over(load_s, ok)
