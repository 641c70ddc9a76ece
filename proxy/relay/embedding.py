"""Single texts to embed, gathered where the settings say so: each client gets the answer to its own text.

A batch belongs to no client, so of a client's head it is sent with nothing but the credential that all of its clients
showed. It is one request to everybody else: one place in the queue, one exchange, one set of runner options.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from proxy.admission.gate import BUSY
from proxy.admission.priority import NORMAL
from proxy.errors import UpstreamBroken, UpstreamTimeout
from proxy.observe.final import read_final
from proxy.observe.timeline import outcome_of
from proxy.relay.asked import understand
from proxy.relay.courier import UpstreamBusy
from proxy.relay.outgoing import compose
from proxy.relay.turns import Turn
from proxy.reuse.gathering import Gatherer, gather_key
from proxy.rewrite.embeddings import as_embed, embedding_error, embedding_list
from proxy.upstream.exchange import UpstreamRequest
from proxy.upstream.retry import is_queue_full, queue_full_delay_s
from proxy.wire.gojson import read_object
from proxy.wire.headers import CREDENTIALS, end_to_end
from proxy.wire.names import canonical
from proxy.wire.routes import Family, classify

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.admission.gate import Gate
    from proxy.errors import PilotlightError
    from proxy.observe.metrics import Metrics
    from proxy.relay.call import Call
    from proxy.relay.courier import Exchanges
    from proxy.residency.catalogue import Catalogue
    from proxy.residency.service import Residency
    from proxy.reuse.gathering import GatherKey
    from proxy.rewrite.embeddings import EmbeddingAsked
    from proxy.settings import Settings
    from proxy.wire.headers import Field
    from proxy.wire.http1 import ReplyHead

    Reply = tuple[int, list[Field], bytes]

# Its vectors have length 1; those of /api/embeddings have not, so that one is left alone.
_ROUTE: Final = classify("POST", "/api/embed")
# Asks for the same in OpenAI's words, and so goes along as an /api/embed.
_V1_ROUTE: Final = classify("POST", "/v1/embeddings")


class Collected:
    """A sink for one whole reply.

    Attributes:
        done: Resolves with the reply, or fails.
    """

    def __init__(self) -> None:
        self._head: ReplyHead | None = None
        self._pieces: list[bytes] = []
        self.done: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

    def on_head(self, head: ReplyHead) -> None:
        self._head = head

    def on_body(self, raw: bytes, payload: bytes) -> None:
        self._pieces.append(payload)

    def on_end(self) -> None:
        if self.done.done():
            return
        if self._head is None:
            self.done.set_exception(UpstreamBroken("the upstream's reply has no head"))
            return
        self.done.set_result((self._head.status, end_to_end(self._head.fields), b"".join(self._pieces)))

    def on_failure(self, error: PilotlightError) -> None:
        if not self.done.done():
            self.done.set_exception(error)


class Embedding:
    """Gathers the calls for the models that the settings name.

    Args:
        settings: ``embed_batch`` of them says which; what is composed depends on others.
        exchanges: The way to Ollama.
        catalogue: Knows models.
        residency: Prepares batches as it does any other call.
        gate: Where a batch waits for its turn.
        metrics: Told of batches.
        via: Our entry in ``Via``.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        settings: Settings,
        exchanges: Exchanges,
        catalogue: Catalogue,
        residency: Residency,
        gate: Gate,
        *,
        metrics: Metrics,
        via: str,
        clock: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._authority = urlsplit(settings.upstream.url).netloc.encode()
        self._exchanges = exchanges
        self._catalogue = catalogue
        self._residency = residency
        self._gate = gate
        self._metrics = metrics
        self._via = via.encode()
        self._clock = clock
        self._gatherers = {
            canonical(name): Gatherer(self._send, max_texts=batch.max, wait_s=batch.wait_s)
            for name, batch in settings.embed_batch.items()
        }

    def __repr__(self) -> str:
        return f"<Embedding {self._gatherers}>"

    def gathers(self, model: str) -> bool:
        """Whether single texts for this model, canonical, go together with others."""
        return model in self._gatherers

    async def serve(self, call: Call, model: str, body: bytes) -> bool:
        """Answer a call together with others, where that is wanted for its model and its body asks for one text.

        Args:
            call: With a body that is understood.
            model: Its model, canonical.
            body: Its body.

        Returns:
            Whether it was answered.

        Raises:
            PilotlightError: Why there is no answer.
        """
        gatherer = self._gatherers.get(model)
        if gatherer is None or call.route not in (_ROUTE, _V1_ROUTE):
            return False
        asked = as_embed(read_object(body)) if call.route is _V1_ROUTE else None
        if asked is not None:
            body = asked.body
        elif call.route is _V1_ROUTE:
            return False
        # A gateway in front of Ollama may need them; a key of ours is not among them any more. OpenAI's clients always
        # show one, because they must.
        fields = ((name.lower(), value) for name, value in end_to_end(call.fields, names=call.names))
        key = gather_key(body, tuple(field for field in fields if field[0] in CREDENTIALS))
        if key is None:
            return False
        timeline = call.timeline
        timeline.sent = self._clock()
        status, told, answer = await gatherer.ask(key, body)
        timeline.upstream_head = timeline.first_byte = self._clock()
        timeline.status = status
        timeline.outcome = outcome_of(status)
        record = read_final(answer, Family.API, stream=False) if status == 200 else None
        if record is not None:
            record.onto(timeline)
        if asked is not None:
            told, answer = _in_openais_words(asked, status, told, answer)
        told = [field for field in told if field[0].lower() != b"content-length"]
        told += [(b"Content-Length", b"%d" % len(answer)), *call.added]
        call.reply.start(status, b"", told, has_length=True, held=True)
        call.reply.write(answer)
        call.reply.end()
        return True

    async def _send(self, key: GatherKey, body: bytes) -> Reply:
        """One call to Ollama, for the texts of one client or of several; again while it says that its queue is full.

        Raises:
            UpstreamBusy: Its queue stayed full, and there is somebody else to ask.
            PilotlightError: Why there is no answer.
        """
        began = self._clock()
        max_wait_s = self._settings.scheduler.max_wait_s
        attempt = 0
        while True:
            reply = await self._run(key, body)
            if not is_queue_full(reply[0], reply[2]):
                return reply
            delay_s = queue_full_delay_s(attempt, random.random())  # noqa: S311 - jitter
            if max_wait_s and self._clock() + delay_s >= began + max_wait_s:
                if self._settings.fallback:
                    raise UpstreamBusy(BUSY)
                return reply
            attempt += 1
            await asyncio.sleep(delay_s)

    async def _run(self, key: GatherKey, body: bytes) -> Reply:
        asked = understand(_ROUTE, read_object(body))
        facts = await self._catalogue.facts(asked.model) if asked is not None else None
        if asked is None or facts is None:
            raise UpstreamBroken("the model cannot be looked up")
        place = self._gate.slot(facts.weights, facts.name, "batches", NORMAL)
        async with Turn(place, facts, self._residency, None, self._clock):
            prepared = await self._residency.prepare(facts, asked.options, keep_alive=asked.keep_alive)
            outgoing = compose(asked, facts, prepared, self._settings, decision=None, refuse_long_prompts=False)
            self._residency.started(facts)
            ok = False
            try:
                reply = await self._collect(key, outgoing.body)
                ok = reply[0] < 500
            finally:
                self._residency.finished(facts, ok=ok)
        texts = asked.obj.given("input")
        if isinstance(texts, list) and len(texts) > 1 and reply[0] == 200:
            record = read_final(reply[2], Family.API, stream=False)
            self._metrics.queue.batched(len(texts))
            self._metrics.tokens_read(facts.name, 0 if record is None else record.prompt_eval_count or 0)
        return reply

    async def _collect(self, key: GatherKey, body: bytes) -> Reply:
        fields = [
            (b"Host", self._authority),
            (b"Content-Type", b"application/json"),
            (b"Content-Length", b"%d" % len(body)),
            (b"Via", self._via),
            *key.credentials,
        ]
        collected = Collected()
        idle_s = self._settings.relay.idle_timeout_s
        flow = await self._exchanges.exchange(UpstreamRequest("POST", _ROUTE.template, fields, body), collected)
        try:
            # The reply comes whole, so silence is all that there is before it.
            async with asyncio.timeout(idle_s or None):
                reply = await collected.done
            if reply[0] >= 500:
                self._metrics.upstream_error("http_5xx")
            return reply
        except TimeoutError:
            self._metrics.upstream_error("timeout")
            raise UpstreamTimeout(f"the upstream sent nothing for {idle_s:g} s") from None
        except UpstreamBroken:
            self._metrics.upstream_error("reset")
            raise
        finally:
            # After a whole reply this does nothing.
            flow.abort()

    async def aclose(self) -> None:
        for gatherer in self._gatherers.values():
            await gatherer.aclose()


def _in_openais_words(
    asked: EmbeddingAsked, status: int, fields: list[Field], answer: bytes
) -> tuple[list[Field], bytes]:
    """A native reply as ``/v1/embeddings`` gives it.

    Raises:
        UpstreamBroken: It cannot be read.
    """
    told = embedding_list(asked, answer) if status == 200 else embedding_error(status, answer)
    if told is None:
        raise UpstreamBroken("the upstream's reply has no vector")
    fields = [field for field in fields if field[0].lower() != b"content-type"]
    return [(b"Content-Type", b"application/json"), *fields], told
