"""Ollama restarts, or is away for a while: R8 and R9, on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from proxy.errors import PilotlightError, UpstreamUnreachable
from proxy.upstream.breaker import CLOSED, HALF_OPEN, OPEN, Breaker
from proxy.upstream.connecting import Connecting
from proxy.upstream.exchange import NoReply, UpstreamRequest
from proxy.upstream.pool import Pool
from proxy.upstream.secure import SecureExchanges
from proxy.upstream.session import open_sessions
from tests.peers import DEADLINE_S, Answering, RawClient, ScriptedUpstream, Seen, client, until, upstream
from tests.stage import chat, chat_end, chat_token, generate, staged

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from proxy.wire.http1 import ReplyHead
    from tests.stage import Stage

COUNT = 50

# --- R8: fifty connections that nobody knows to be dead


async def whole(seen: Seen, reply: Answering) -> None:
    if seen.path == "/api/chat":
        reply.head()
        reply.frames(chat_token("x"), chat_end())
        reply.end()
    elif seen.method == "HEAD":
        reply.raw(b"HTTP/1.1 200 X\r\nContent-Length: 2\r\n\r\n")
    else:
        reply.json({"status": "success"})


class Filled:
    """A proxy with fifty pooled connections to its upstream, and fifty clients."""

    def __init__(self, stage: Stage, clients: list[RawClient]) -> None:
        self.stage = stage
        self.clients = clients

    async def ask(self, method: str, path: str, body: Any = None) -> list[int]:
        """Fifty requests at the same time; their status. Each is told apart by a field."""
        for n, opened in enumerate(self.clients):
            if body is None:
                opened.get(path, f"X-N: {n}", method=method)
            else:
                opened.post(path, body, f"X-N: {n}", method=method)
        return [(await opened.answer(is_head=method == "HEAD")).status for opened in self.clients]

    def seen(self, since: int) -> Counter[str | None]:
        """How often each request arrived."""
        return Counter(seen.header("X-N") for seen in self.stage.calls[since:])

    def race(self) -> None:
        """As Ollama does that just ends: every connection dies of its next request, without a byte."""
        dead = {connection.transport for connection in self.stage.upstream.open}

        async def script(seen: Seen, reply: Answering) -> None:
            if reply.transport in dead:
                reply.fin()
            else:
                await whole(seen, reply)

        self.stage.script = script

    async def restart(self) -> None:
        await self.stage.upstream.stop()
        await self.stage.upstream.start()


@contextlib.asynccontextmanager
async def filled(method: str, path: str, body: Any = None) -> AsyncIterator[Filled]:
    everybody = asyncio.Barrier(COUNT)

    async def script(seen: Seen, reply: Answering) -> None:
        await everybody.wait()
        await whole(seen, reply)

    async with staged(script) as stage, contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(client(stage.address)) for _ in range(COUNT)]
        these = Filled(stage, clients)
        before = stage.upstream.connections
        assert await these.ask(method, path, body) == [200] * COUNT
        # All at once, so on as many connections, each of which is pooled now.
        assert stage.upstream.connections - before >= COUNT
        stage.script = whole
        yield these


REPEATABLE = [
    ("POST", "/api/chat", chat()),
    ("POST", "/api/generate", generate()),
    ("POST", "/api/embed", {"model": "tiny", "input": "x"}),
    ("GET", "/api/tags", None),
    ("HEAD", "/api/blobs/sha256:00", None),
    ("POST", "/api/show", {"model": "tiny"}),
]


@pytest.mark.parametrize(("method", "path", "body"), REPEATABLE)
async def test_fifty_repeatable_requests_survive_a_race_with_the_end_of_ollama(
    method: str, path: str, body: Any
) -> None:
    """R8: 50 of 50, each seen once, or twice where its first copy vanished without a byte."""
    async with filled(method, path, body) as these:
        these.race()
        since = len(these.stage.calls)
        assert await these.ask(method, path, body) == [200] * COUNT
        seen = these.seen(since)
        assert set(seen) == {str(n) for n in range(COUNT)}
        # ``show`` has a body, and so a connection of its own.
        assert set(seen.values()) == {1 if path == "/api/show" else 2}


@pytest.mark.parametrize(("method", "path", "body"), [REPEATABLE[0], REPEATABLE[3]])
async def test_fifty_repeatable_requests_survive_a_restart(method: str, path: str, body: Any) -> None:
    """R8, where the ends of the connections arrive before, with or after the requests."""
    async with filled(method, path, body) as these:
        since = len(these.stage.calls)
        await these.restart()
        assert await these.ask(method, path, body) == [200] * COUNT
        assert set(these.seen(since).values()) <= {1, 2}
        assert len(these.seen(since)) == COUNT


ONCE = [
    ("POST", "/api/create"),
    ("DELETE", "/api/delete"),
    ("POST", "/api/push"),
    ("POST", "/api/pull"),
    ("POST", "/api/copy"),
    ("POST", "/api/blobs/sha256:00"),
]


@pytest.mark.parametrize(("method", "path"), ONCE)
async def test_what_changes_models_is_never_sent_twice(method: str, path: str) -> None:
    """R8: neither where pooled connections are stale, nor where each connection ends without a byte."""
    async with filled("GET", "/api/tags") as these:
        these.race()
        since = len(these.stage.calls)
        assert await these.ask(method, path, {"model": "tiny"}) == [200] * COUNT
        assert these.seen(since) == {str(n): 1 for n in range(COUNT)}

        async def ends(seen: Seen, reply: Answering) -> None:
            reply.fin()

        these.stage.script = ends
        since = len(these.stage.calls)
        assert await these.ask(method, path, {"model": "tiny"}) == [502] * COUNT
        assert set(these.seen(since).values()) == {1}


async def test_a_create_that_met_a_closed_port_is_sent_once_it_is_open_again() -> None:
    """Nothing was sent, so that even this may be tried again; its body is still the client's."""
    async with staged(whole) as stage, stage.client() as opened:
        await stage.upstream.stop()
        opened.post("/api/create", {"model": "tiny"})
        connecting = stage.proxy.relay._passing._connecting
        await until(lambda: connecting.budget.running == 1)
        await stage.upstream.start()
        assert (await opened.answer()).status == 200
        assert [seen.json for seen in stage.calls] == [{"model": "tiny"}]


# --- the same through aiohttp's client, as to an upstream with TLS


async def test_a_secure_upstream_has_attempts_and_a_breaker_too() -> None:
    now, dying = 0.0, True

    async def script(seen: Seen, reply: Answering) -> None:
        if dying:
            reply.fin()
        else:
            await whole(seen, reply)

    connecting = Connecting(clock=lambda: now)
    sessions = open_sessions(connect_timeout_s=1, via="1.1 us", user_agent="us")
    async with upstream(script) as server:
        exchanges = SecureExchanges(server.url, sessions.fresh, connecting)
        await server.stop()
        asking = asyncio.create_task(exchanges.exchange(REQUEST, Ended()))
        await until(lambda: connecting.budget.running == 1)
        await server.start()
        with pytest.raises(NoReply):
            await asking
        while connecting.breaker.state != OPEN:
            with pytest.raises(NoReply):
                await exchanges.exchange(REQUEST, Ended())
        sent = len(server.seen)
        assert sent <= 4, "the connect that was refused counts too"
        with pytest.raises(UpstreamUnreachable) as told:
            await exchanges.exchange(REQUEST, Ended())
        assert (told.value.retry_after_s, len(server.seen)) == (1.0, sent)
        now, dying = 1.0, False
        sink = Ended()
        await exchanges.exchange(REQUEST, sink)
        assert await asyncio.wait_for(sink.done, DEADLINE_S) is None
        assert (connecting.breaker.state, connecting.breaker.failures) == (CLOSED, 0)
        await exchanges.aclose()
        await sessions.aclose()


# --- R9: an upstream that is away

EVERY_S = 0.01
REQUEST = UpstreamRequest("POST", "/api/chat", [(b"Host", b"x"), (b"Content-Length", b"2")], b"{}")


class Ended:
    """A sink that waits for the end."""

    def __init__(self) -> None:
        self.done: asyncio.Future[PilotlightError | None] = asyncio.get_running_loop().create_future()

    def on_head(self, head: ReplyHead) -> None:
        pass

    def on_body(self, raw: bytes, payload: bytes) -> None:
        pass

    def on_end(self) -> None:
        self.done.set_result(None)

    def on_failure(self, error: PilotlightError) -> None:
        self.done.set_result(error)


class Outage:
    """A pool under a steady rate of requests.

    Attributes:
        states: Each new state of the breaker: its name, the loop's time, and how many attempts there were until then.
    """

    def __init__(self, server: ScriptedUpstream, breaker: Breaker | None = None) -> None:
        self.states: list[tuple[str, float, int]] = []
        self.connecting = Connecting(breaker=breaker, on_state=self._on_state)
        self.pool = Pool(server.url, connect_timeout_s=1, connecting=self.connecting)
        self.asked: list[asyncio.Task[PilotlightError | None]] = []

    def _on_state(self, state: str) -> None:
        self.states.append((state, asyncio.get_running_loop().time(), self.connecting.attempts))

    async def ask(self) -> PilotlightError | None:
        sink = Ended()
        try:
            await self.pool.exchange(REQUEST, sink)
        except UpstreamUnreachable as error:
            return error
        return await sink.done

    async def run(self, seconds: float) -> list[PilotlightError | None]:
        """Ask for so long, a hundred times a second; the outcomes."""
        since = len(self.asked)
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + seconds
        while loop.time() < ends_at:
            self.asked.append(loop.create_task(self.ask()))
            await asyncio.sleep(EVERY_S)
        async with asyncio.timeout(DEADLINE_S):
            return await asyncio.gather(*self.asked[since:])


@contextlib.asynccontextmanager
async def away(breaker: Breaker | None = None) -> AsyncIterator[tuple[ScriptedUpstream, Outage]]:
    """An upstream whose port refuses, until it is started."""
    async with upstream(whole) as server:
        await server.stop()
        outage = Outage(server, breaker)
        try:
            yield server, outage
        finally:
            async with asyncio.timeout(DEADLINE_S):
                await outage.pool.aclose()


async def test_an_upstream_that_refuses_is_left_alone_and_found_again() -> None:
    """R9. Slow, because the second for which the breaker is open is the thing under test."""
    loop = asyncio.get_running_loop()
    async with away() as (server, outage):
        began = loop.time()
        outcomes = await outage.run(2.3)
        assert {type(outcome) for outcome in outcomes} == {UpstreamUnreachable}
        assert outage.connecting.attempts <= 1.1 * len(outcomes)

        state, opened_at, attempts = outage.states[0]
        # Five that failed; one or two more may be under way.
        assert state == OPEN
        assert 5 <= attempts <= 10
        assert opened_at - began <= 1.0
        probes = [
            after[2] - before[2]
            for before, after in zip(outage.states, outage.states[1:], strict=False)
            if before[0] == HALF_OPEN
        ]
        # The first attempt of a state is counted after the state was told.
        assert probes
        assert set(probes) == {1}
        assert outage.connecting.attempts == attempts + len(probes)

        await server.start()
        recovered = loop.time()
        outcomes = await outage.run(1.1)
        while outage.states[-1][0] != CLOSED and loop.time() - recovered <= 2.0:
            outcomes += await outage.run(0.1)
        state, closed_at, _ = outage.states[-1]
        assert state == CLOSED
        assert closed_at - recovered <= 2.0
        assert None in outcomes
        assert set(await outage.run(0.1)) == {None}


async def test_of_two_hundred_that_fail_together_a_tenth_repeat() -> None:
    """Where no breaker ends it, each of those few is two more attempts."""
    async with away(Breaker(failures=10**9)) as (_, outage):
        async with asyncio.timeout(DEADLINE_S):
            outcomes = await asyncio.gather(*(outage.ask() for _ in range(200)))
        assert {type(outcome) for outcome in outcomes} == {UpstreamUnreachable}
        assert 200 < outage.connecting.attempts <= 200 + 2 * 20
        assert outage.connecting.budget.running == 0


async def test_an_upstream_that_accepts_and_says_nothing_is_left_alone_too() -> None:
    """R9, counted by the upstream: here a connect succeeds, and the answer never comes."""

    async def ends(seen: Seen, reply: Answering) -> None:
        reply.fin()

    async with upstream(ends) as server:
        outage = Outage(server)
        outcomes = await outage.run(1.3)
        assert {type(outcome) for outcome in outcomes} == {NoReply, UpstreamUnreachable}
        assert server.connections == outage.connecting.attempts <= len(outcomes) / 2
        assert [state for state, _, _ in outage.states][:4] == [OPEN, HALF_OPEN, CLOSED, OPEN]
        await outage.pool.aclose()
