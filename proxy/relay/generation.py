"""The way of a call to a model: read, prepare, compose, exchange, deliver; and once more where the answer asks for it.

Whatever is not understood goes the same way without the middle: as it came.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import urlsplit

from proxy.errors import BadRequest, UpstreamTimeout
from proxy.observe.timeline import Outcome
from proxy.relay.asked import Asked, understand
from proxy.relay.delivery import Delivery, Flow
from proxy.relay.limits import CLIENT_STALLED, Limits
from proxy.relay.outgoing import Outgoing, compose
from proxy.relay.passing import via_value
from proxy.rewrite.generate import Decision, decide
from proxy.upstream.exchange import UpstreamRequest
from proxy.wire.gojson import read_object
from proxy.wire.headers import end_to_end, first
from proxy.wire.routes import Kind

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.observe.metrics import Metrics
    from proxy.relay.call import Call
    from proxy.relay.reply import ClientConnection
    from proxy.residency.catalogue import Catalogue
    from proxy.residency.service import Prepared, Residency
    from proxy.rewrite.facts import ModelFacts
    from proxy.settings import Settings
    from proxy.upstream.exchange import Sink
    from proxy.wire.gojson import JsonObject
    from proxy.wire.http1 import ReplyHead

# server/routes.go and llm/server.go v0.24.0, recorded: what a prompt gets that may not be cut.
TOO_LONG: Final = b"the input length exceeds the context length"
# One for the first try, one for each growth (num_ctx doubles), one for the cut.
_MOST_ATTEMPTS: Final = 12

_NOT_SENT_ON: Final = frozenset((b"content-length", b"expect", b"x-request-id", b"via"))
# A reply that is read here must not be compressed; Ollama never does, a hop in front of it might.
_NOT_SENT_ON_WHEN_READ: Final = _NOT_SENT_ON | {b"accept-encoding"}


def _nothing() -> None:
    """There is nothing else to do."""


class Exchanges(Protocol):
    """What carries a request to the upstream (``upstream.pool`` or ``upstream.tls``)."""

    async def exchange(self, request: UpstreamRequest, sink: Sink) -> Flow: ...


class Generation:
    """Serves calls to models.

    Args:
        settings: All of them.
        exchanges: The upstream.
        catalogue: Knows models.
        residency: Owns which model is loaded, and how.
        metrics: Told of rewriting, errors and gaps.
        via: Our entry in ``Via``.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        settings: Settings,
        exchanges: Exchanges,
        catalogue: Catalogue,
        residency: Residency,
        metrics: Metrics,
        *,
        via: str,
        clock: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._authority = urlsplit(settings.upstream.url).netloc.encode()
        self._exchanges = exchanges
        self._catalogue = catalogue
        self._residency = residency
        self._metrics = metrics
        self._via = via
        self._clock = clock

    async def serve(self, call: Call, connection: ClientConnection) -> None:
        """Serve one call. Leaving it in any way ends its exchange.

        Raises:
            PilotlightError: What the client is told, where nothing was sent to it yet.
        """
        body = await call.read_body(self._settings.edge.max_body_bytes)
        call.timeline.bytes_in = len(body)
        obj = None if first(call.fields, b"content-encoding") else read_object(body)
        model = obj.given("model") if obj is not None else None
        if isinstance(model, str):
            call.timeline.model = model
        facts = await self._catalogue.facts(model) if isinstance(model, str) and model else None
        if call.route.kind is Kind.V1:
            await self._serve_v1(call, connection, body, facts)
            return
        decision = self._decide(obj, facts) if call.route.kind is Kind.GENERATE else None
        # The first rule is about bodies that are not certain to be taken; past it, there is nothing left to check.
        asked = understand(call.route, obj, is_certain=decision is not None and decision.rule > 1)
        if asked is None or facts is None or facts.remote:
            await self._once(call, connection, Outgoing(call.route.template, body))
            return
        if asked.is_unload:
            await self._unload(call, connection, facts, body)
        else:
            await self._serve_native(call, connection, asked, facts, decision)

    # --- the three ways

    async def _serve_native(
        self,
        call: Call,
        connection: ClientConnection,
        asked: Asked,
        facts: ModelFacts,
        decision: Decision | None,
    ) -> None:
        refuse_long = True
        for _ in range(_MOST_ATTEMPTS):
            prepared = await self._prepare(call, asked, facts)
            outgoing = compose(
                call.route,
                asked,
                facts,
                prepared,
                self._settings,
                decision=decision,
                refuse_long_prompts=refuse_long and prepared.long_prompts != "cut",
            )
            call.timeline.rule, call.timeline.injected = outgoing.rule, outgoing.injected
            tell = functools.partial(self._tell, call, outgoing, prepared)
            delivery = await self._sent(call, connection, outgoing, facts, tell)
            held = delivery.held
            if held is None:
                return
            if TOO_LONG not in held.body or prepared.long_prompts == "refuse":
                delivery.release(held)
                return
            if prepared.long_prompts == "grow" and await self._residency.grow_for_prompt(facts, len(asked.obj.text)):
                continue
            refuse_long = False
            call.added.append((b"X-Pilotlight-Prompt", b"cut"))
            self._metrics.prompt_cut(facts.name)
        raise BadRequest(TOO_LONG.decode())

    async def _serve_v1(self, call: Call, connection: ClientConnection, body: bytes, facts: ModelFacts | None) -> None:
        outgoing = Outgoing(call.route.template, body)
        if facts is None or facts.remote:
            await self._once(call, connection, outgoing)
            return
        prepared = await self._residency.prepare(facts, None, v1=True)
        if prepared.cold:
            call.timeline.load_wait_s += prepared.waited_s
        try:
            await self._sent(call, connection, outgoing, facts)
        finally:
            self._residency.v1_called(facts)

    async def _unload(self, call: Call, connection: ClientConnection, facts: ModelFacts, body: bytes) -> None:
        await self._once(call, connection, Outgoing(call.route.template, body))
        if call.timeline.status == 200:
            self._residency.unloaded(facts)

    # --- their steps

    def _decide(self, obj: JsonObject | None, facts: ModelFacts | None) -> Decision:
        """About generate to chat.

        Raises:
            BadRequest: A ``context`` that would end the server, or one of our own that was damaged; also where
                nothing is rewritten.
        """
        decision = decide(obj, facts, self._settings.rewrite.own_context)
        if decision.error is not None:
            raise decision.error
        if decision.to_chat and not self._settings.rewrite.generate_to_chat and not _holds_own_context(obj):
            return Decision(decision.rule, "generate_to_chat is off")
        return decision

    async def _prepare(self, call: Call, asked: Asked, facts: ModelFacts) -> Prepared:
        prepared = await self._residency.prepare(
            facts,
            asked.options,
            keep_alive=asked.keep_alive,
            v1=False,
        )
        if prepared.cold:
            call.timeline.load_wait_s += prepared.waited_s
        return prepared

    def _tell(self, call: Call, outgoing: Outgoing, prepared: Prepared) -> None:
        if outgoing.rule:
            self._metrics.rewrite(outgoing.rule, outgoing.mapper is not None)
        self._metrics.rewrite("keep_alive", prepared.keep_alive is not None)
        self._metrics.rewrite("options", bool(prepared.set_options or prepared.remove_options))
        call.added[:] = [field for field in call.added if field[0] != b"X-Pilotlight-Options"]
        if prepared.told:
            call.added.append((b"X-Pilotlight-Options", prepared.told.encode()))

    async def _sent(
        self,
        call: Call,
        connection: ClientConnection,
        outgoing: Outgoing,
        facts: ModelFacts,
        meanwhile: Callable[[], None] = _nothing,
    ) -> Delivery:
        """One exchange that residency knows of."""
        self._residency.started(facts)
        try:
            return await self._once(call, connection, outgoing, meanwhile)
        finally:
            timeline = call.timeline
            ok = timeline.outcome not in (Outcome.UPSTREAM_ERROR, Outcome.TIMEOUT)
            self._residency.finished(facts, load_s=timeline.load_duration_s, ok=ok)

    async def _once(
        self,
        call: Call,
        connection: ClientConnection,
        outgoing: Outgoing,
        meanwhile: Callable[[], None] = _nothing,
    ) -> Delivery:
        """One exchange, whole: what has to be decided about is held, everything else is written.

        Args:
            meanwhile: Done once the request is on its way, before anything of the reply can be here.
        """
        timeline = call.timeline
        delivery = Delivery(
            call.reply,
            timeline,
            added=call.added,
            on_gaps=self._metrics.chunk_gaps(timeline.model),
            clock=self._clock,
            mapper=outgoing.mapper,
            gather=outgoing.gather,
            holds=_is_bad_request if outgoing.asks_for_whole_prompts else _is_never_held,
        )
        call.delivery = delivery
        limits = Limits(
            delivery,
            call.reply,
            idle_timeout_s=self._settings.relay.idle_timeout_s,
            write_stall_s=self._settings.relay.write_stall_s,
            clock=self._clock,
        )
        try:
            delivery.flow = await self._exchanges.exchange(self._request(call, outgoing), delivery)
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
        self._note_failure(call, delivery)
        return delivery

    def _request(self, call: Call, outgoing: Outgoing) -> UpstreamRequest:
        _, mark, query = call.path.partition("?")
        is_read = outgoing.mapper is not None or outgoing.gather is not None
        fields = end_to_end(call.fields, _NOT_SENT_ON_WHEN_READ if is_read else _NOT_SENT_ON)
        fields += (
            (b"Content-Length", b"%d" % len(outgoing.body)),
            (b"X-Request-Id", call.timeline.request_id.encode()),
            (b"Via", via_value(call.fields, self._via).encode("latin-1")),
        )
        if first(fields, b"host") is None:
            # HTTP/1.0 has none, and we speak 1.1.
            fields.insert(0, (b"Host", self._authority))
        return UpstreamRequest(call.method, f"{outgoing.path}{mark}{query}", fields, outgoing.body)

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


def _holds_own_context(obj: JsonObject | None) -> bool:
    """A conversation that was begun as chat can go on as nothing else: no generate understands its context."""
    return obj is not None and bool(obj.given("context"))


def _is_bad_request(head: ReplyHead) -> bool:
    return head.status == 400


def _is_never_held(head: ReplyHead) -> bool:
    return False
