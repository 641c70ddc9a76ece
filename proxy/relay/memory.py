"""Answers that need no run of their own: those that are kept, and those that somebody else is just getting.

Both are known by what would be sent to Ollama: it does not matter which call asked for it, or whether as a stream.
What must live here: which requests may be answered so, and under which key. What it must not know: how they are run.
"""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, NamedTuple

from proxy.reuse.key import Keys, bypass_reason, canonical
from proxy.reuse.recording import Recorder, replay
from proxy.reuse.shared import Flights
from proxy.reuse.store import Answers
from proxy.wire.headers import CREDENTIALS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from proxy.observe.metrics import Metrics
    from proxy.relay.call import Call
    from proxy.relay.outgoing import Outgoing
    from proxy.reuse.store import Recorded
    from proxy.rewrite.facts import ModelFacts
    from proxy.settings import Settings
    from proxy.upstream.exchange import Flow, Sink
    from proxy.wire.gojson import JsonObject
    from proxy.wire.headers import Field
    from proxy.wire.routes import Family, Route


class Ask(NamedTuple):
    """One request that may be answered from memory.

    Attributes:
        key: Under which its answer is known.
        digest: Of its model.
        family: Whose shapes its reply has.
        keeps: Its answer may be kept, and a kept one be given.
        shares: It may join a run that is under way, and others may join its own.
    """

    key: bytes
    digest: str
    family: Family
    keeps: bool
    shares: bool


class Memory:
    """Knows answers.

    Args:
        settings: ``cache`` and ``share_identical`` of them are read.
        metrics: Told of hits, misses and what is not for it.
        clock: Monotonic seconds.
        wall_clock: Seconds since 1970.

    Attributes:
        is_on: Anything is ever answered from here.
        flights: The runs that are shared.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        *,
        clock: Callable[[], float],
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        cache = settings.cache
        self._mode = cache.mode
        self._shares = settings.share_identical
        self._upstream = settings.upstream.url
        self._metrics = metrics
        self._wall_clock = wall_clock
        self._keys = Keys(secrets.token_bytes(32))
        self._answers = Answers(cache.max_entries, cache.max_bytes, cache.ttl_s, clock, metrics.queue.evicted)
        self.is_on = self._mode != "off" or self._shares
        self.flights = Flights()

    def __repr__(self) -> str:
        return f"<Memory {self._mode} {self._answers!r} {self.flights!r}>"

    def ask(self, call: Call, outgoing: Outgoing, route: Route, obj: JsonObject, facts: ModelFacts) -> Ask | None:
        """Whether, and how, a request may be answered from here; ``None``: it is run by itself.

        Args:
            call: The client's request; told of ``X-Cache`` where answers are kept.
            outgoing: What would be sent, without what residency puts in.
            route: Whose fields ``obj`` has.
            obj: The body, before anything was put in.
            facts: About its model.
        """
        form = canonical(outgoing.body, native=outgoing.path.startswith("/api/")) if facts.digest else None
        reason = "other"
        if form is not None:
            reason = bypass_reason(self._mode, route, obj, call.fields, form, facts.parameters)
        if self._mode != "off" and reason:
            self._metrics.queue.bypassed(reason)
            call.added.append((b"X-Cache", b"BYPASS"))
        shares = False
        if form is not None and self._shares:
            shares = not bypass_reason("deterministic", route, obj, call.fields, form, facts.parameters)
        if form is None or (reason and not shares):
            return None
        _, _, query = call.path.partition("?")
        key = self._keys.of(
            _credential(call.received),
            self._upstream,
            facts.digest,
            f"{outgoing.path}?{query}",
            form,
        )
        return Ask(key, facts.digest, outgoing.family, not reason, shares)

    def kept(self, call: Call, ask: Ask) -> Recorded | None:
        """The answer that is kept, where there is one; tells the client so."""
        if not ask.keeps:
            return None
        found = self._answers.get(ask.key)
        self._metrics.cache_lookup("response", found is not None)
        call.added.append((b"X-Cache", b"MISS" if found is None else b"HIT"))
        return found

    async def play(self, recorded: Recorded, sink: Sink) -> Flow:
        """Give a kept answer to a sink."""
        return replay(recorded, sink, now=self._wall_clock())

    def recording(self, ask: Ask, sink: Sink) -> Sink:
        """The sink, and the memory beside it where the answer may be kept."""
        if not ask.keeps:
            return sink

        def keep(recorded: Recorded) -> None:
            self._answers.put(ask.key, ask.digest, recorded)
            self.tell()

        limit_bytes = self._answers.largest_bytes
        return Recorder(sink, ask.family, limit_bytes=limit_bytes, on_recorded=keep, wall=self._wall_clock)

    def forget(self, digest: str) -> None:
        """A model was made anew or is gone: its answers are another model's."""
        if self._answers.flush(digest):
            self.tell()

    def tell(self) -> None:
        """Write down what is held."""
        if self._mode != "off":
            self._metrics.queue.answers(len(self._answers), self._answers.size_bytes)

    async def aclose(self) -> None:
        await self.flights.aclose()


def _credential(fields: Sequence[Field]) -> str:
    """Whose request it is: every such field, because nobody knows which one of several counts."""
    found = [(name.lower(), value) for name, value in fields if name.lower() in CREDENTIALS]
    return b"\n".join(b"%b:%b" % field for field in sorted(found, key=lambda field: field[0])).decode("latin-1")
