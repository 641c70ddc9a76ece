"""How a composed request is run: in its turn, alone; or without one, by what is known or by a run that is shared.

What must live here: the order of place, load and exchange, and who lets go of them. What it must not know: what was
asked, and how it was rewritten.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from proxy.errors import LoadFailed
from proxy.observe.timeline import REUSED_CACHE, REUSED_SHARED, Outcome
from proxy.relay.courier import nothing
from proxy.relay.turns import SharedRun, Turn
from proxy.upstream.retry import is_queue_full

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from proxy.admission.gate import Gate
    from proxy.observe.metrics import Metrics
    from proxy.relay.call import Call
    from proxy.relay.courier import Courier, Exchanges, Opens
    from proxy.relay.delivery import Delivery
    from proxy.relay.memory import Ask, Memory
    from proxy.relay.outgoing import Outgoing
    from proxy.relay.reply import ClientConnection
    from proxy.residency.prepared import Prepared
    from proxy.residency.service import Residency
    from proxy.rewrite.facts import ModelFacts
    from proxy.upstream.exchange import Flow, Sink

    Prepares = Callable[[], Awaitable[Outgoing]]


class Runs:
    """Runs requests at Ollama.

    Args:
        url: Ollama's.
        exchanges: The way to it.
        courier: Brings replies.
        residency: Told of what runs.
        gate: Where turns are waited for.
        memory: What needs no run.
        metrics: Told of what is shared.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        url: str,
        exchanges: Exchanges,
        courier: Courier,
        residency: Residency,
        gate: Gate,
        memory: Memory,
        *,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self._authority = urlsplit(url).netloc.encode()
        self._exchanges = exchanges
        self._courier = courier
        self._residency = residency
        self._gate = gate
        self._memory = memory
        self._metrics = metrics
        self._clock = clock

    def turn(self, call: Call, facts: ModelFacts) -> Turn:
        """The scope in which a call has a place."""
        place = self._gate.slot(facts.weights, facts.name, call.client, call.priority)
        return Turn(place, facts, self._residency, call.timeline, self._clock)

    async def patiently(self, call: Call, prepares: Callable[[], Awaitable[Prepared]]) -> Prepared:
        """Prepare a request; where Ollama's queue is too full for its load, wait as for a request of its own.

        Raises:
            PilotlightError: As residency does.
        """
        attempt = 0
        while True:
            try:
                return await prepares()
            except LoadFailed as error:
                if not is_queue_full(error.status, error.message.encode()):
                    raise
                if not await self._courier.waits_for_room(call, attempt):
                    raise
                attempt += 1

    async def as_it_came(self, call: Call, connection: ClientConnection, outgoing: Outgoing) -> None:
        """Run a request of which nothing is known."""
        await self._courier.deliver(call, connection, outgoing, self._opens(call, outgoing, None))

    async def run(
        self,
        call: Call,
        connection: ClientConnection,
        outgoing: Outgoing,
        facts: ModelFacts,
        ask: Ask | None,
        meanwhile: Callable[[], None] = nothing,
    ) -> Delivery:
        """Run a request in its turn; residency knows of it.

        Args:
            ask: What the answer is kept under, where it may be.
            meanwhile: Done once the request is on its way.
        """
        self._residency.started(facts)
        opens = self._opens(call, outgoing, ask)
        try:
            return await self._courier.deliver(call, connection, outgoing, opens, meanwhile=meanwhile)
        finally:
            timeline = call.timeline
            ok = timeline.outcome not in (Outcome.UPSTREAM_ERROR, Outcome.TIMEOUT)
            self._over(outgoing, facts, timeline.load_duration_s, ok)

    async def without(
        self,
        call: Call,
        connection: ClientConnection,
        outgoing: Outgoing,
        facts: ModelFacts,
        ask: Ask,
        prepares: Prepares,
    ) -> bool:
        """Answer without a run of its own, from what is kept or by a run that is shared; whether that was done.

        Args:
            outgoing: How the reply is translated for this call.
            ask: What is asked for.
            prepares: Sees that the model is loaded, and says what is sent; for the run that others may share.
        """
        recorded = self._memory.kept(call, ask)
        if recorded is not None:
            call.timeline.reused = REUSED_CACHE
            await self._courier.deliver(call, connection, outgoing, functools.partial(self._memory.play, recorded))
            return True
        if not ask.shares:
            return False

        async def opens(sink: Sink) -> Flow:
            delivery = call.delivery
            if delivery is None:
                return await self._join_or_begin(call, facts, ask, prepares, sink)
            delivery.is_queued = True
            try:
                return await self._join_or_begin(call, facts, ask, prepares, sink)
            finally:
                delivery.is_queued = False
                delivery.note_activity()

        await self._courier.deliver(call, connection, outgoing, opens)
        return True

    async def _join_or_begin(self, call: Call, facts: ModelFacts, ask: Ask, prepares: Prepares, sink: Sink) -> Flow:
        """Take part in the run for this request; returns when it has been sent."""
        flights = self._memory.flights
        # Who joins has the place of who began: so it must be one of its own class.
        key = ask.key + bytes((call.priority,))
        joined = flights.join(key, sink)
        if joined is None:
            start = functools.partial(self._start_shared, call, facts, ask, prepares)
            return await flights.begin(key, start, sink)
        timeline = call.timeline
        if not timeline.reused:
            timeline.reused = REUSED_SHARED
            call.added.append((b"X-Pilotlight-Shared", b"1"))
            self._metrics.queue.shared()
        began = self._clock()
        try:
            await flights.until_sent(key)
        except BaseException:
            joined.abort()
            raise
        finally:
            timeline.queue_s += self._clock() - began
        return joined

    async def _start_shared(self, call: Call, facts: ModelFacts, ask: Ask, prepares: Prepares, sink: Sink) -> Flow:
        """Begin a run that belongs to nobody: it goes on for those who joined when the first one has left."""
        turn = self.turn(call, facts)
        await turn.enter()
        try:
            outgoing = await prepares()
            request = self._courier.request(call, outgoing, self._authority, is_read=True)
            self._residency.started(facts)
        except BaseException:
            turn.leave()
            raise

        def on_over(load_s: float | None, ok: bool) -> None:
            self._over(outgoing, facts, load_s, ok)
            turn.leave()

        run = SharedRun(self._memory.recording(ask, sink), outgoing.family, on_over)
        try:
            run.flow = await self._exchanges.exchange(request, run)
        except BaseException:
            run.over(None, ok=False)
            raise
        return run

    def _over(self, outgoing: Outgoing, facts: ModelFacts, load_s: float | None, ok: bool) -> None:
        self._residency.finished(facts, load_s=load_s, ok=ok)
        if outgoing.path.startswith("/v1/"):
            self._residency.v1_called(facts)

    def _opens(self, call: Call, outgoing: Outgoing, ask: Ask | None) -> Opens:
        is_kept = ask is not None and ask.keeps

        async def opens(sink: Sink) -> Flow:
            request = self._courier.request(call, outgoing, self._authority, is_read=is_kept)
            return await self._exchanges.exchange(request, sink if ask is None else self._memory.recording(ask, sink))

        return opens
