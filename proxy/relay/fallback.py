"""Whom to ask where Ollama cannot answer: other Ollamas and providers, in order, before the client has got a byte.

Another Ollama is asked what the client asked, in its own words but for the model's name: nothing is known of what it
has loaded, so nothing is put in. A provider with OpenAI's API is asked in that API's words, where there are any
(``rewrite.provider``), and only for the models that are named for it.

A client's credential is for whoever it calls. It goes to no provider ever, and to another Ollama only where the
settings say so.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import structlog

from proxy.errors import LoadFailed, PilotlightError, ShuttingDown, UpstreamBroken, UpstreamUnreachable
from proxy.observe.timeline import Outcome
from proxy.relay.courier import UpstreamBusy, nothing
from proxy.relay.outgoing import Outgoing
from proxy.relay.provider import ProviderFlow, ProviderSink, is_no_answer
from proxy.rewrite.context import holds_own
from proxy.rewrite.provider.plan import plan
from proxy.upstream.exchange import UpstreamRequest
from proxy.wire.gojson import go_quote, splice
from proxy.wire.headers import CREDENTIALS
from proxy.wire.names import canonical

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from proxy.observe.metrics import Metrics
    from proxy.observe.timeline import Timeline
    from proxy.relay.call import Call
    from proxy.relay.courier import Courier, Exchanges, Opens
    from proxy.relay.reply import ClientConnection
    from proxy.rewrite.provider.plan import Plan
    from proxy.upstream.exchange import Flow, Sink
    from proxy.wire.gojson import JsonObject
    from proxy.wire.headers import Field
    from proxy.wire.http1 import ReplyHead

_log: Any = structlog.get_logger("proxy.relay")

# Ollama is away, breaks off, cannot load the model, or is overrun by others. Our own full queue is not among them: what
# it turns away would overrun the next one too.
WORTH_ANOTHER: Final = (UpstreamUnreachable, UpstreamBroken, LoadFailed, UpstreamBusy)
# Whoever runs this has to do something about these.
_KEY_REFUSED: Final = (401, 402, 403)


@dataclass(frozen=True, slots=True, eq=False)
class Fallback:
    """One of them.

    Attributes:
        name: ``host:port``, for metrics and ``X-Pilotlight-Upstream``.
        exchanges: What carries requests to it.
        models: Its names for models, by ours in canonical form.
        is_provider: It speaks OpenAI's API, and is asked for ``models`` only.
        base_path: Of a provider's API; a path that begins with a slash and does not end with one.
        key: Shown to it; "" for none.
        gets_credentials: The client's go to it, where it has no ``key``.
    """

    name: str
    exchanges: Exchanges
    models: Mapping[str, str]
    is_provider: bool = False
    base_path: str = ""
    key: str = field(default="", repr=False)
    gets_credentials: bool = False


class Fallbacks:
    """All of them, in order.

    Args:
        fallbacks: In the order in which they are asked.
        courier: Brings their replies.
        metrics: Told of each that is asked.
        primary: ``upstream.url``, for ``X-Pilotlight-Upstream`` where it answered itself.
        own_context: Whether a generate's reply may carry a ``context`` of the proxy's own.
        user_agent: What providers see.
        wall_clock: Seconds since 1970.
    """

    def __init__(
        self,
        fallbacks: Sequence[Fallback],
        courier: Courier,
        metrics: Metrics,
        primary: str,
        *,
        own_context: bool = True,
        user_agent: str = "pilotlight",
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._fallbacks = fallbacks
        self._courier = courier
        self._metrics = metrics
        self._primary = urlsplit(primary).netloc.encode()
        self._own_context = own_context
        self._user_agent = user_agent.encode()
        self._wall_clock = wall_clock
        self._told: set[str] = set()
        metrics.queue.know_fallbacks(fallback.name for fallback in fallbacks)

    def __bool__(self) -> bool:
        return bool(self._fallbacks)

    def name_primary(self, call: Call) -> None:
        """Say who answers, until somebody else does."""
        if self._fallbacks:
            call.added.append((b"X-Pilotlight-Upstream", self._primary))

    async def serve(
        self, call: Call, connection: ClientConnection, body: bytes, obj: JsonObject | None, error: PilotlightError
    ) -> None:
        """Ask one after the other, until one answers.

        Args:
            call: The client's request; nothing of a reply to it is out.
            connection: The client's.
            body: Its body.
            obj: The same, read, where it is an object.
            error: Why Ollama itself did not answer.

        Raises:
            PilotlightError: That error: none of them answered either.
        """
        for fallback in self._fallbacks:
            if fallback.is_provider:
                planned = self._planned(call, fallback, obj)
                if planned is not None and await self._ask_provider(call, connection, fallback, planned):
                    return
            elif not holds_own(obj) and await self._ask_ollama(call, connection, fallback, body, obj):
                # A conversation that was begun as chat can go on as nothing else: no generate understands its context.
                return
        call.added[:] = [field for field in call.added if field[0] != b"X-Pilotlight-Upstream"]
        raise error

    async def _ask_ollama(
        self, call: Call, connection: ClientConnection, fallback: Fallback, body: bytes, obj: JsonObject | None
    ) -> bool:
        other = _name_there(fallback, obj)
        if obj is not None and other is not None:
            body = splice(obj, {"model": go_quote(other)})
        outgoing = Outgoing(call.route.template, body, family=call.route.family)
        name = fallback.name.encode()
        request = self._courier.request(call, outgoing, name)
        request = request._replace(own_fields=_fields_for(fallback, request.fields), lines=b"")
        return await self._ask(
            call,
            connection,
            fallback,
            outgoing,
            lambda sink: fallback.exchanges.exchange(request, sink),
            holds=_is_no_answer,
        )

    def _planned(self, call: Call, fallback: Fallback, obj: JsonObject | None) -> Plan | None:
        there = _name_there(fallback, obj)
        if obj is None or there is None:
            return None
        return plan(call.route, obj, there, own_context=self._own_context, stamp=self._stamp)

    async def _ask_provider(self, call: Call, connection: ClientConnection, fallback: Fallback, planned: Plan) -> bool:
        # The reply is translated before anybody else sees it, so it has the shapes of the route that was called.
        outgoing = Outgoing(call.route.template, planned.body, family=call.route.family)
        # Nothing of the client's head: it is no business of theirs.
        fields = [
            (b"Host", fallback.name.encode()),
            (b"User-Agent", self._user_agent),
            (b"Accept", b"text/event-stream" if planned.streams else b"application/json"),
            (b"Accept-Encoding", b"identity"),
            (b"Content-Type", b"application/json"),
            (b"Content-Length", b"%d" % len(planned.body)),
        ]
        target = fallback.base_path + planned.path
        request = UpstreamRequest("POST", target, _fields_for(fallback, fields), planned.body)

        async def opens(sink: Sink) -> Flow:
            on_activity = nothing if call.delivery is None else call.delivery.note_activity
            translating = ProviderSink(sink, planned, call.route.family, fallback.key, on_activity)
            return ProviderFlow(await fallback.exchanges.exchange(request, translating))

        return await self._ask(call, connection, fallback, outgoing, opens, holds=is_no_answer)

    async def _ask(
        self,
        call: Call,
        connection: ClientConnection,
        fallback: Fallback,
        outgoing: Outgoing,
        opens: Opens,
        *,
        holds: Callable[[ReplyHead], bool],
    ) -> bool:
        """One exchange; whether the client has its answer."""
        call.added[:] = [field for field in call.added if not field[0].startswith((b"X-Pilotlight-", b"X-Cache"))]
        call.added.append((b"X-Pilotlight-Upstream", fallback.name.encode()))
        _forget_try(call.timeline)
        call.timeline.fallback = fallback.name
        try:
            delivery = await self._courier.deliver(call, connection, outgoing, opens, holds=holds)
        except PilotlightError as error:
            if call.reply.started or isinstance(error, ShuttingDown):
                raise
            self._metrics.queue.fell_back(fallback.name, False)
            call.timeline.fallback = ""
            return False
        held = delivery.held
        if held is not None:
            self._note_refusal(fallback, held.head.status)
        elif delivery.error is None:
            self._told.discard(fallback.name)
        self._metrics.queue.fell_back(fallback.name, held is None and delivery.error is None)
        if held is not None:
            call.timeline.fallback = ""
        return held is None

    def _note_refusal(self, fallback: Fallback, status: int) -> None:
        """Say once, until it answers, that a key is refused: no client is told, and a metric does not say why."""
        if status in _KEY_REFUSED and fallback.name not in self._told:
            self._told.add(fallback.name)
            _log.warning("a fallback refuses its key, or the client's", fallback=fallback.name, status=status)

    def _stamp(self) -> str:
        return datetime.fromtimestamp(self._wall_clock(), UTC).isoformat().replace("+00:00", "Z")


def _name_there(fallback: Fallback, obj: JsonObject | None) -> str | None:
    model = None if obj is None or obj.odd else obj.given("model")
    return fallback.models.get(canonical(model)) if isinstance(model, str) else None


def _fields_for(fallback: Fallback, fields: Sequence[Field]) -> list[Field]:
    """A request's fields, with the host's name, and with the credential that it may see."""
    drops = () if fallback.gets_credentials and not fallback.key else CREDENTIALS
    name = fallback.name.encode()
    told = [(key, name if key.lower() == b"host" else value) for key, value in fields if key.lower() not in drops]
    return [*told, (b"Authorization", b"Bearer " + fallback.key.encode())] if fallback.key else told


def _forget_try(timeline: Timeline) -> None:
    """What was marked of the try before belongs to no answer. What it cost in time stays."""
    timeline.upstream_head = timeline.token_read = timeline.first_token = None
    timeline.first_answer = timeline.last_token = None
    timeline.chunks, timeline.outcome, timeline.incomplete = 0, Outcome.OK, False
    timeline.rule, timeline.injected, timeline.reused = 0, "", ""


def _is_no_answer(head: ReplyHead) -> bool:
    """It does not have the model, or cannot load it, or is overrun itself."""
    return head.status == 404 or head.status >= 500
