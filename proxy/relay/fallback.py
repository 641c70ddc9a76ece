"""Whom to ask where Ollama cannot answer: other Ollamas, in order, before the client has got a byte.

They are asked what the client asked, in its own words but for the model's name: nothing is known of what they have
loaded, so nothing is put in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import urlsplit

from proxy.errors import LoadFailed, PilotlightError, ShuttingDown, UpstreamBroken, UpstreamUnreachable
from proxy.observe.timeline import Outcome
from proxy.relay.courier import UpstreamBusy
from proxy.relay.outgoing import Outgoing
from proxy.wire.gojson import go_quote, splice
from proxy.wire.names import canonical

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from proxy.observe.metrics import Metrics
    from proxy.observe.timeline import Timeline
    from proxy.relay.call import Call
    from proxy.relay.courier import Courier, Exchanges
    from proxy.relay.reply import ClientConnection
    from proxy.wire.gojson import JsonObject
    from proxy.wire.http1 import ReplyHead

# Ollama is away, breaks off, cannot load the model, or is overrun by others. Our own full queue is not among them: what
# it turns away would overrun the next one too.
WORTH_ANOTHER: Final = (UpstreamUnreachable, UpstreamBroken, LoadFailed, UpstreamBusy)


class Fallback(NamedTuple):
    """One of them.

    Attributes:
        name: ``host:port``, for metrics and ``X-Pilotlight-Upstream``.
        exchanges: What carries requests to it.
        models: Its names for models, by ours in canonical form.
    """

    name: str
    exchanges: Exchanges
    models: Mapping[str, str]


class Fallbacks:
    """All of them, in order.

    Args:
        fallbacks: In the order in which they are asked.
        courier: Brings their replies.
        metrics: Told of each that is asked.
        primary: ``upstream.url``, for ``X-Pilotlight-Upstream`` where it answered itself.
    """

    def __init__(self, fallbacks: Sequence[Fallback], courier: Courier, metrics: Metrics, primary: str) -> None:
        self._fallbacks = fallbacks
        self._courier = courier
        self._metrics = metrics
        self._primary = urlsplit(primary).netloc.encode()
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
            if await self._ask(call, connection, fallback, self._renamed(fallback, body, obj)):
                return
        call.added[:] = [field for field in call.added if field[0] != b"X-Pilotlight-Upstream"]
        raise error

    async def _ask(self, call: Call, connection: ClientConnection, fallback: Fallback, body: bytes) -> bool:
        name = fallback.name.encode()
        call.added[:] = [field for field in call.added if not field[0].startswith((b"X-Pilotlight-", b"X-Cache"))]
        call.added.append((b"X-Pilotlight-Upstream", name))
        _forget_try(call.timeline)
        outgoing = Outgoing(call.route.template, body)
        request = self._courier.request(call, outgoing, name)
        fields = [(key, name if key.lower() == b"host" else value) for key, value in request.fields]
        request = request._replace(fields=fields)
        try:
            delivery = await self._courier.deliver(
                call,
                connection,
                outgoing,
                lambda sink: fallback.exchanges.exchange(request, sink),
                holds=_is_no_answer,
            )
        except PilotlightError as error:
            if call.reply.started or isinstance(error, ShuttingDown):
                raise
            self._metrics.queue.fell_back(fallback.name, False)
            return False
        answered = delivery.held is None
        self._metrics.queue.fell_back(fallback.name, answered and delivery.error is None)
        return answered

    def _renamed(self, fallback: Fallback, body: bytes, obj: JsonObject | None) -> bytes:
        model = None if obj is None or obj.odd else obj.given("model")
        other = fallback.models.get(canonical(model)) if isinstance(model, str) else None
        return body if obj is None or other is None else splice(obj, {"model": go_quote(other)})


def _forget_try(timeline: Timeline) -> None:
    """What was marked of the try before belongs to no answer. What it cost in time stays."""
    timeline.upstream_head = timeline.token_read = timeline.first_token = None
    timeline.first_answer = timeline.last_token = None
    timeline.chunks, timeline.outcome, timeline.incomplete = 0, Outcome.OK, False
    timeline.rule, timeline.injected, timeline.reused = 0, "", ""


def _is_no_answer(head: ReplyHead) -> bool:
    """It does not have the model, or cannot load it, or is overrun itself."""
    return head.status == 404 or head.status >= 500
