"""The way of a call to a model: read, decide, wait for a place, prepare, compose, deliver.

Whatever is not understood goes the same way without the middle: as it came. What Ollama cannot answer goes to the
fallbacks, where there are any.
"""

from __future__ import annotations

import functools
import random
from typing import TYPE_CHECKING, Final

from proxy.admission.priority import BATCH, NORMAL, parse_priority
from proxy.admission.ratelimit import refusal
from proxy.errors import BadRequest, Forbidden
from proxy.relay.asked import Asked, understand, understand_v1
from proxy.relay.fallback import WORTH_ANOTHER
from proxy.relay.outgoing import Outgoing, compose
from proxy.residency.prepared import UNTOUCHED
from proxy.rewrite.context import holds_own
from proxy.rewrite.generate import Decision, decide
from proxy.rewrite.v1.dialect import dialect
from proxy.rewrite.v1.fields import REQUESTS as TRANSLATED
from proxy.wire.gojson import read_object
from proxy.wire.names import canonical
from proxy.wire.routes import Kind

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.admission.priority import Priority
    from proxy.admission.ratelimit import RateLimits
    from proxy.observe.metrics import Metrics
    from proxy.relay.call import Call
    from proxy.relay.embedding import Embedding
    from proxy.relay.fallback import Fallbacks
    from proxy.relay.memory import Ask, Memory
    from proxy.relay.reply import ClientConnection
    from proxy.relay.runs import Runs
    from proxy.relay.shapes import Said
    from proxy.residency.catalogue import Catalogue
    from proxy.residency.prepared import Prepared
    from proxy.residency.service import Residency
    from proxy.rewrite.facts import ModelFacts
    from proxy.settings import Settings
    from proxy.wire.gojson import JsonObject

# server/routes.go and llm/server.go v0.24.0, recorded: what a prompt gets that may not be cut.
TOO_LONG: Final = b"the input length exceeds the context length"
# What decides about a permission.
_DECISIVE: Final = frozenset(("model", "name", "keep_alive"))
_MAY_NOT_UNLOAD: Final = "unloading a model that is kept needs the right to manage"
# One for the first try, one for each growth (num_ctx doubles), one for the cut.
_MOST_ATTEMPTS: Final = 12


class Generation:
    """Serves calls to models.

    Args:
        settings: All of them.
        catalogue: Knows models.
        residency: Owns which model is loaded, and how.
        runs: Runs what was composed.
        embedding: Gathers single texts.
        memory: Answers that need no run of their own.
        fallbacks: Who else is asked.
        limits: How many calls a client may send.
        metrics: Told of rewriting and refusals.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        settings: Settings,
        catalogue: Catalogue,
        residency: Residency,
        runs: Runs,
        *,
        embedding: Embedding,
        memory: Memory,
        fallbacks: Fallbacks,
        limits: RateLimits,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._max_body_bytes = settings.edge.max_body_bytes
        self._catalogue = catalogue
        self._residency = residency
        self._runs = runs
        self._embedding = embedding
        self._memory = memory
        self._fallbacks = fallbacks
        self._limits = limits
        self._metrics = metrics
        self._clock = clock

    async def serve(self, call: Call, connection: ClientConnection) -> None:
        """Serve one call. Leaving it in any way ends its exchange.

        Raises:
            PilotlightError: What the client is told, where nothing was sent to it yet.
        """
        self._refuse_too_many(call)
        priority = _asked_priority(call)
        body = await call.read_body(self._max_body_bytes)
        call.timeline.bytes_in = len(body)
        said = self._said(call, body)
        obj = _read(call, body) if said is None else said.shape.asked.obj
        call.priority = _default_priority(call, obj) if priority is None else priority
        key = None if call.admitted is None else call.admitted.key
        if key is not None:
            call.priority = max(call.priority, key.ceiling)
        self._refuse_beyond_permission(call, obj)
        self._fallbacks.name_primary(call)
        began = self._clock()
        try:
            await self._serve(call, connection, body, obj, said)
        except WORTH_ANOTHER as error:
            obj = obj if said is None else _read(call, body)
            if call.reply.started or not self._fallbacks or not _may_be_asked_elsewhere(call, obj):
                raise
            timeline = call.timeline
            timeline.failed_s = self._clock() - began - timeline.queue_s - timeline.load_wait_s
            await self._fallbacks.serve(call, connection, body, obj, error)

    def _said(self, call: Call, body: bytes) -> Said | None:
        """What is said in a body like an earlier one, where nothing else of it has to be looked at again."""
        if self._memory.is_on or call.given(b"content-encoding") is not None:
            return None
        said = call.head.shapes.find(body)
        if said is None or self._catalogue.holds(said.shape.facts):
            return said
        call.head.shapes.forget(said.shape)
        return None

    async def _serve(
        self, call: Call, connection: ClientConnection, body: bytes, obj: JsonObject | None, said: Said | None
    ) -> None:
        if said is not None:
            call.timeline.model = said.shape.asked.model
            await self._serve_native(call, connection, said.shape.asked, said.shape.facts, said.shape.decision, said)
            return
        model = obj.given("model") if obj is not None else None
        if isinstance(model, str):
            call.timeline.model = model
        facts = None
        if isinstance(model, str) and model:
            facts = self._catalogue.recalled(model) or await self._catalogue.facts(model)
        if call.route.kind is Kind.V1:
            await self._serve_v1(call, connection, body, obj, facts)
            return
        decision = self._decide(obj, facts) if call.route.kind is Kind.GENERATE else None
        # The first rule is about bodies that are not certain to be taken; past it, there is nothing left to check.
        asked = understand(call.route, obj, is_certain=decision is not None and decision.rule > 1)
        if asked is None or facts is None or facts.remote:
            self._refuse_unread_unload(call, obj, facts)
            await self._as_it_came(call, connection, body)
        elif asked.is_unload:
            await self._unload(call, connection, facts, body)
        elif not await self._gathered(call, facts, body):
            if not (self._memory.is_on or asked.is_load):
                call.head.shapes.learn(call.route, asked.obj, facts, self._decide)
            await self._serve_native(call, connection, asked, facts, decision)

    # --- the ways

    async def _as_it_came(self, call: Call, connection: ClientConnection, body: bytes) -> None:
        """Costs nothing, or nothing that is known of: so it does not wait either."""
        await self._runs.as_it_came(call, connection, Outgoing(call.route.template, body, family=call.route.family))

    async def _unload(self, call: Call, connection: ClientConnection, facts: ModelFacts, body: bytes) -> None:
        if self._residency.is_kept(facts):
            call.is_managing = True
            if call.admitted is not None and not call.admitted.may_manage:
                raise Forbidden(_MAY_NOT_UNLOAD)
        await self._as_it_came(call, connection, body)
        if call.timeline.status == 200:
            self._residency.unloaded(facts)

    async def _gathered(self, call: Call, facts: ModelFacts, body: bytes) -> bool:
        """Whether it was answered together with others; those of another class wait in their own place."""
        if call.priority is not NORMAL or not self._embedding.gathers(facts.name):
            return False
        return await self._embedding.serve(call, facts.name, body)

    async def _serve_v1(
        self, call: Call, connection: ClientConnection, body: bytes, obj: JsonObject | None, facts: ModelFacts | None
    ) -> None:
        outgoing = Outgoing(call.route.template, body, family=call.route.family)
        if facts is None or facts.remote or obj is None:
            await self._as_it_came(call, connection, body)
            return
        if await self._gathered(call, facts, body):
            return

        if (asked := self._translated(call, obj, facts)) is not None:
            await self._serve_native(call, connection, asked, facts, None)
            return

        async def prepared() -> Outgoing:
            ready = await self._runs.patiently(call, lambda: self._residency.prepare(facts, None, v1=True))
            if ready.cold:
                call.timeline.load_wait_s += ready.waited_s
            return outgoing

        ask = self._memory.ask(call, outgoing, call.route, obj, facts) if self._memory.is_on else None
        if ask is not None and await self._runs.without(call, connection, outgoing, facts, ask, prepared):
            return
        async with self._runs.turn(call, facts):
            if (asked := self._translated(call, obj, facts)) is not None:
                # While the call waited, another one gave the model options of its own.
                await self._run_native(call, connection, asked, facts, None, None)
                return
            self._tell_v1(call, is_translated=False)
            await prepared()
            await self._runs.run(call, connection, outgoing, facts, ask)

    async def _serve_native(
        self,
        call: Call,
        connection: ClientConnection,
        asked: Asked,
        facts: ModelFacts,
        decision: Decision | None,
        said: Said | None = None,
    ) -> None:
        ask = None
        if self._memory.is_on and not asked.is_load:
            plain = self._compose(asked, facts, UNTOUCHED, decision)
            _note(call, plain)
            ask = self._memory.ask(call, plain, asked.route, asked.obj, facts)
            if ask is not None and self._residency.long_prompts(facts) in ("tell", "grow"):
                # Such a prompt may have to be sent again in another way, which only its own call can decide.
                ask = ask._replace(shares=False)
            if ask is not None:

                async def prepared() -> Outgoing:
                    ready = await self._prepare(call, asked, facts)
                    outgoing = self._compose(asked, facts, ready, decision)
                    _note(call, outgoing)
                    self._tell(call, outgoing, ready, facts)
                    return outgoing

                if await self._runs.without(call, connection, plain, facts, ask, prepared):
                    return
        async with self._runs.turn(call, facts):
            await self._run_native(call, connection, asked, facts, decision, ask, said)

    async def _run_native(
        self,
        call: Call,
        connection: ClientConnection,
        asked: Asked,
        facts: ModelFacts,
        decision: Decision | None,
        ask: Ask | None,
        said: Said | None = None,
    ) -> None:
        refuse_long = True
        for _ in range(_MOST_ATTEMPTS):
            prepared = await self._prepare(call, asked, facts)
            outgoing = None if said is None else said.shape.outgoing(said.content, prepared, self._settings)
            if outgoing is None:
                if said is not None:
                    asked, said = asked._replace(obj=said.whole()), None
                    decision = None if decision is None else self._decide(asked.obj, facts)
                outgoing = self._compose(asked, facts, prepared, decision, refuse_long=refuse_long)
            _note(call, outgoing)
            tell = functools.partial(self._tell, call, outgoing, prepared, facts)
            # An answer to a prompt that was cut is not kept: who gets it has to be told.
            delivery = await self._runs.run(call, connection, outgoing, facts, ask if refuse_long else None, tell)
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

    # --- their steps

    def _refuse_beyond_permission(self, call: Call, obj: JsonObject | None) -> None:
        """Refuse a model that the key is not for, and what could be read as another request than was judged.

        Raises:
            BadRequest: A name that decides matches only by case, or stands twice: Ollama would read it (design: as Go).
            Forbidden: The model is not one of the key's.
        """
        admitted = call.admitted
        if admitted is None or (admitted.key is None and admitted.may_manage):
            return
        if obj is None:
            # Not an object to Ollama either, unless it is encoded; then nobody here knows what it asks for.
            if call.given(b"content-encoding") is not None:
                if call.route.kind is not Kind.V1 and not admitted.may_manage:
                    # Ollama decodes none here and does not look at the field: the body may be a plain one.
                    raise BadRequest("the request's body has to come without a Content-Encoding")
                admitted.refuse_model("")
            return
        if obj.odd_for(_DECISIVE):
            raise BadRequest("model, name and keep_alive must stand once each, in lower case")
        model = obj.given("model")
        admitted.refuse_model(canonical(model) if isinstance(model, str) else "")

    def _refuse_unread_unload(self, call: Call, obj: JsonObject | None, facts: ModelFacts | None) -> None:
        """Refuse a ``keep_alive`` for a kept model that would go on as it came.

        Raises:
            Forbidden: The caller may not unload it.
        """
        if call.admitted is None or call.admitted.may_manage or obj is None or obj.given("keep_alive") is None:
            return
        model = obj.given("model")
        if facts is not None:
            is_kept = self._residency.is_kept(facts)
        else:
            kept = {canonical(each.name) for each in self._settings.models}
            is_kept = isinstance(model, str) and canonical(model) in kept
        if is_kept:
            call.is_managing = True
            raise Forbidden(_MAY_NOT_UNLOAD)

    def _refuse_too_many(self, call: Call) -> None:
        """Take one from the client's bucket, which is its key's where it has one.

        Raises:
            RateLimited: It is empty.
        """
        key = None if call.admitted is None else call.admitted.key
        rate_per_s, burst = (None, None) if key is None else (key.rate_per_s, key.burst)
        wait_s = self._limits.take(call.client, self._clock(), rate_per_s=rate_per_s, burst=burst)
        if wait_s > 0:
            self._metrics.queue.rejected("rate_limit")
            raise refusal(wait_s)

    def _decide(self, obj: JsonObject | None, facts: ModelFacts | None) -> Decision:
        """About generate to chat.

        Raises:
            BadRequest: A ``context`` that would end the server, or one of our own that was damaged; also where
                nothing is rewritten.
        """
        decision = decide(obj, facts, self._settings.rewrite.own_context)
        if decision.error is not None:
            raise decision.error
        if decision.to_chat and not self._settings.rewrite.generate_to_chat and not holds_own(obj):
            return Decision(decision.rule, "generate_to_chat is off")
        return decision

    async def _prepare(self, call: Call, asked: Asked, facts: ModelFacts) -> Prepared:
        prepared = self._residency.prepare_now(facts, asked.options, keep_alive=asked.keep_alive)
        if prepared is not None:
            return prepared
        prepared = await self._runs.patiently(
            call, lambda: self._residency.prepare(facts, asked.options, keep_alive=asked.keep_alive)
        )
        if prepared.cold:
            call.timeline.load_wait_s += prepared.waited_s
        return prepared

    def _compose(
        self,
        asked: Asked,
        facts: ModelFacts,
        prepared: Prepared,
        decision: Decision | None,
        *,
        refuse_long: bool = True,
    ) -> Outgoing:
        return compose(
            asked,
            facts,
            prepared,
            self._settings,
            decision=decision,
            refuse_long_prompts=refuse_long and prepared.long_prompts != "cut",
        )

    def _translated(self, call: Call, obj: JsonObject, facts: ModelFacts) -> Asked | None:
        """A ``/v1`` call as the native one it is sent as; ``None`` where it is relayed."""
        mode = self._settings.v1
        if mode == "passthrough" or call.route.template not in TRANSLATED or "image" in facts.capabilities:
            return None
        if mode == "auto" and self._residency.suits_v1(facts):
            return None
        number = random.randrange(999)  # noqa: S311 - as Ollama numbers them
        return understand_v1(call.route, obj, dialect(self._catalogue.version), number)

    def _tell_v1(self, call: Call, *, is_translated: bool) -> None:
        if call.route.template in TRANSLATED:
            self._metrics.rewrite("v1", is_translated)

    def _tell(self, call: Call, outgoing: Outgoing, prepared: Prepared, facts: ModelFacts) -> None:
        for option in prepared.avoided:
            self._metrics.reload_avoided(facts.name, option)
        if outgoing.rule:
            self._metrics.rewrite(outgoing.rule, outgoing.mapper is not None)
        self._tell_v1(call, is_translated=True)
        self._metrics.rewrite("keep_alive", prepared.keep_alive is not None)
        self._metrics.rewrite("options", bool(prepared.set_options or prepared.remove_options))
        call.added[:] = [field for field in call.added if field[0] != b"X-Pilotlight-Options"]
        if prepared.told:
            call.added.append((b"X-Pilotlight-Options", prepared.told.encode()))


def _note(call: Call, outgoing: Outgoing) -> None:
    call.timeline.rule, call.timeline.injected = outgoing.rule, outgoing.injected


def _read(call: Call, body: bytes) -> JsonObject | None:
    return None if call.given(b"content-encoding") else read_object(body)


def _asked_priority(call: Call) -> Priority | None:
    """The class that the client asks for.

    Raises:
        BadRequest: It is none of the three.
    """
    given = call.given(b"x-priority")
    if given is None:
        return None
    try:
        return parse_priority(given.decode("latin-1"))
    except ValueError:
        raise BadRequest("X-Priority must be interactive, normal or batch") from None


def _default_priority(call: Call, obj: JsonObject | None) -> Priority:
    """Texts to embed that come as a list are nobody's conversation."""
    if obj is not None and call.timeline.endpoint in ("api_embed", "v1_embeddings"):
        texts = obj.given("input")
        if isinstance(texts, list) and len(texts) > 1:
            return BATCH
    return NORMAL


def _may_be_asked_elsewhere(call: Call, obj: JsonObject | None) -> bool:
    """Not what is about this Ollama's memory."""
    asked = understand(call.route, obj) if call.route.kind is not Kind.V1 else None
    return asked is None or not asked.is_load
