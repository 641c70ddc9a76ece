"""One exchange for one call, whole: opened, delivered, watched, and ended in whatever way the call is left.

What must live here: what is sent on of a request's head, limits, the upstream's own full queue. What it must not know:
where a reply comes from. That is ``opens``: Ollama, another run that is shared, the memory of answers, a fallback.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Final, Protocol

from proxy.admission.gate import BUSY
from proxy.errors import Overloaded, UpstreamTimeout
from proxy.relay.delivery import Delivery
from proxy.relay.head import SentOn
from proxy.relay.limits import CLIENT_STALLED, Limits
from proxy.relay.passing import via_value
from proxy.upstream.exchange import UpstreamRequest
from proxy.upstream.retry import is_queue_full, queue_full_delay_s
from proxy.wire.headers import encode_fields, end_to_end

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from proxy.observe.metrics import Metrics
    from proxy.relay.call import Call
    from proxy.relay.outgoing import Outgoing
    from proxy.relay.reply import ClientConnection
    from proxy.settings import Settings
    from proxy.upstream.exchange import Flow, Sink
    from proxy.wire.http1 import ReplyHead

    Opens = Callable[[Sink], Awaitable[Flow]]

_NOT_SENT_ON: Final = frozenset((b"content-length", b"expect", b"x-request-id", b"via", b"x-priority"))
# Told to clients of an Ollama that stayed overrun: as long as its longest pause between two tries, twice.
_RETRY_S: Final = 4.0
# A reply that is read here must not be compressed; Ollama never does, a hop in front of it might.
_NOT_SENT_ON_WHEN_READ: Final = _NOT_SENT_ON | {b"accept-encoding"}


def nothing() -> None:
    """There is nothing else to do."""


class UpstreamBusy(Overloaded):
    """Ollama's own queue is full, and stays so."""


class Exchanges(Protocol):
    """What carries a request to an upstream (``upstream.pool`` or ``upstream.secure``)."""

    async def exchange(self, request: UpstreamRequest, sink: Sink) -> Flow: ...

    async def aclose(self) -> None: ...


class Courier:
    """Brings replies to clients.

    Args:
        settings: ``relay`` and ``scheduler`` of them are read.
        metrics: Told of errors and gaps.
        via: Our entry in ``Via``.
        clock: Monotonic seconds.
    """

    def __init__(self, settings: Settings, metrics: Metrics, *, via: str, clock: Callable[[], float]) -> None:
        self._relay = settings.relay
        self._max_wait_s = settings.scheduler.max_wait_s
        self._has_fallback = bool(settings.fallback)
        self._metrics = metrics
        self._via = via
        self._via_alone = via.encode("latin-1")
        self._clock = clock

    def request(self, call: Call, outgoing: Outgoing, authority: bytes, *, is_read: bool = False) -> UpstreamRequest:
        """What is sent.

        Args:
            call: The client's request.
            outgoing: What becomes of it.
            authority: The upstream's, for a client of HTTP/1.0, which names none.
            is_read: Its reply is looked at by others than this client's delivery.
        """
        _, mark, query = call.path.partition("?")
        is_read = is_read or outgoing.mapper is not None or outgoing.gather is not None
        via = self._via_alone if b"via" not in call.names.at else via_value(call.fields, self._via).encode("latin-1")
        own = [
            (b"Content-Length", b"%d" % len(outgoing.body)),
            (b"X-Request-Id", call.timeline.request_id.encode()),
            (b"Via", via),
        ]
        if b"host" not in call.names.at:
            # HTTP/1.0 has none, and we speak 1.1.
            own.insert(0, (b"Host", authority))
        lines = _lines(call, _NOT_SENT_ON_WHEN_READ if is_read else _NOT_SENT_ON)
        return UpstreamRequest(call.method, f"{outgoing.path}{mark}{query}", own, outgoing.body, lines)

    async def deliver(
        self,
        call: Call,
        connection: ClientConnection,
        outgoing: Outgoing,
        opens: Opens,
        *,
        meanwhile: Callable[[], None] = nothing,
        holds: Callable[[ReplyHead], bool] | None = None,
    ) -> Delivery:
        """One exchange, and again while Ollama says that its queue is full; then its answer is passed on after all.

        Args:
            call: The client's request.
            connection: The client's.
            outgoing: What is sent, and how the reply is translated.
            opens: Begins the exchange and gives its reply to the sink.
            meanwhile: Done once the request is on its way, before anything of the reply can be here.
            holds: Which replies are kept back for the caller to decide about, and nothing is repeated; ``None``: those
                that ``outgoing.asks_for_whole_prompts`` may bring.

        Raises:
            UpstreamBusy: Its queue stayed full, and there is somebody else to ask.
            PilotlightError: What the client is told, where nothing was sent to it yet.
        """
        if holds is not None:
            return await self._once(call, connection, outgoing, opens, holds, meanwhile)
        attempt = 0
        while True:
            holds_now = _is_refusal if outgoing.asks_for_whole_prompts else _is_busy
            delivery = await self._once(call, connection, outgoing, opens, holds_now, meanwhile)
            held = delivery.held
            if held is None or held.head.status != 503:
                return delivery
            if not is_queue_full(503, held.body) or not await self.waits_for_room(call, attempt):
                self._metrics.upstream_error("http_5xx")
                if self._has_fallback:
                    raise UpstreamBusy(BUSY, retry_after_s=_RETRY_S)
                delivery.release(held)
                delivery.held = None
                return delivery
            attempt += 1

    async def waits_for_room(self, call: Call, attempt: int) -> bool:
        """Wait before a request is sent again to an Ollama whose queue was full; False: it has waited long enough.

        Args:
            call: Its wait is part of the queue's.
            attempt: How often it has waited so far.
        """
        delay_s = queue_full_delay_s(attempt, random.random())  # noqa: S311 - jitter
        if self._max_wait_s and self._clock() + delay_s >= call.timeline.received + self._max_wait_s:
            return False
        await asyncio.sleep(delay_s)
        call.timeline.queue_s += delay_s
        return True

    async def _once(
        self,
        call: Call,
        connection: ClientConnection,
        outgoing: Outgoing,
        opens: Opens,
        holds: Callable[[ReplyHead], bool],
        meanwhile: Callable[[], None],
    ) -> Delivery:
        """One exchange, whole: what has to be decided about is held, everything else is written."""
        timeline = call.timeline
        delivery = Delivery(
            call.reply,
            timeline,
            added=call.added,
            on_gaps=lambda times, since: self._metrics.chunk_gaps(timeline.model)(times, since),
            clock=self._clock,
            mapper=outgoing.mapper,
            gather=outgoing.gather,
            holds=holds,
            family=outgoing.family,
        )
        call.delivery = delivery
        limits = Limits(
            delivery,
            call.reply,
            idle_timeout_s=self._relay.idle_timeout_s,
            write_stall_s=self._relay.write_stall_s,
            clock=self._clock,
        )
        try:
            delivery.flow = await opens(delivery)
            timeline.sent = self._clock()
            meanwhile()
            connection.on_writable = limits.on_writable
            if connection.writing_paused:
                limits.on_writable(False)
            await delivery.done
        finally:
            connection.on_writable = None
            limits.close()
            delivery.settle()
            if limits.stalled:
                timeline.error_code = CLIENT_STALLED
            # Whatever is still under way ends here; after a whole reply this does nothing. Not asked of ``done``: a
            # client that leaves cancels it together with us.
            if delivery.flow is not None:
                delivery.flow.abort()
                # Each holds the other: so their memory would be had again only when the collector comes by, and the
                # next request would begin in another one that no cache holds.
                delivery.flow = None
        self._note_failure(call, delivery)
        return delivery

    def _note_failure(self, call: Call, delivery: Delivery) -> None:
        error = delivery.error
        if error is None:
            if call.timeline.status >= 500:
                self._metrics.upstream_error("http_5xx")
            return
        if isinstance(error, UpstreamTimeout):
            self._metrics.upstream_error("timeout")
        elif error.status == 502:
            self._metrics.upstream_error("reset")
        if not call.reply.started:
            raise error


def _lines(call: Call, without: frozenset[bytes]) -> bytes:
    """What goes on of a request's fields as it came, which is the same for each request with the same head."""
    sent_on = call.head.sent_on
    if sent_on is not None and sent_on.fields is call.fields and sent_on.without is without:
        return sent_on.lines
    lines = encode_fields(end_to_end(call.fields, without, call.names))
    call.head.sent_on = SentOn(call.fields, without, lines)
    return lines


def _is_busy(head: ReplyHead) -> bool:
    return head.status == 503


def _is_refusal(head: ReplyHead) -> bool:
    return head.status in (400, 503)
