"""One exchange with Ollama for every client that asks for the same at the same time.

Whoever comes later gets the reply from its beginning. What arrived is held once, on a tape, and each client has a place
on it: a slow one holds up nobody else, and Ollama is only held up once all of them are. The exchange belongs to no
client. It ends when its last one leaves.

What must live here: who is on board, and what becomes of the exchange. What it must not know: what was asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from proxy.errors import PilotlightError, ShuttingDown, UpstreamBroken
from proxy.reuse.recording import Replay, Tape

if TYPE_CHECKING:
    from proxy.upstream.exchange import Flow, Sink
    from proxy.wire.http1 import ReplyHead

LIMIT_BYTES: Final = 16 * 1024 * 1024
"""A hundred times the longest answers of text: what is larger are images or vectors."""

TOO_SLOW: Final = "the client takes a shared reply too slowly"


Start = Callable[["Sink"], Awaitable["Flow"]]


class Shared:
    """One exchange and its members. A sink towards the exchange.

    Args:
        limit_bytes: A longer reply takes no further members, and a member that is further behind is failed.
        on_closed: Called once when nobody may join any more.
        on_over: Called once when the exchange ended, or was ended.
    """

    def __init__(self, limit_bytes: int, *, on_closed: Callable[[], object], on_over: Callable[[Shared], None]):
        self._limit_bytes = limit_bytes
        self._on_closed = on_closed
        self._on_over = on_over
        self._tape = Tape()
        self._members: list[Replay] = []
        self._flow: Flow | None = None
        self._is_held_up = False
        self._is_closed = False
        self._is_over = False
        self.starting: asyncio.Task[PilotlightError | None] | None = None

    def __repr__(self) -> str:
        return f"<Shared {len(self._members)} members, {self._tape!r}>"

    # --- members

    def add(self, sink: Sink) -> Replay:
        """Take a member on; it gets nothing before its ``begin``."""
        member = Replay(self._tape, sink, on_over=self._leave, on_steered=self._steer)
        self._members.append(member)
        self._steer()
        return member

    def close(self, error: PilotlightError) -> None:
        """End it for everyone."""
        for member in tuple(self._members):
            member.fail(error)

    def _leave(self, member: Replay) -> None:
        self._members.remove(member)
        if self._members:
            self._steer()
        elif not self._is_over:
            self._end()
            if self._flow is not None:
                self._flow.abort()
            elif self.starting is not None:
                self.starting.cancel()

    def _steer(self) -> None:
        """Hold the exchange up while nobody takes anything."""
        if self._flow is None or self._is_over:
            return
        is_held_up = all(member.is_paused for member in self._members)
        if is_held_up is not self._is_held_up:
            self._is_held_up = is_held_up
            if is_held_up:
                self._flow.pause_reading()
            else:
                self._flow.resume_reading()

    # --- the exchange

    async def start(self, start: Start) -> PilotlightError | None:
        """Begin the exchange; for a task that outlives whoever came first.

        Returns:
            Why it could not begin. The members that have begun know.
        """
        try:
            flow = await start(self)
        except PilotlightError as error:
            self.on_failure(error)
            return error
        except BaseException:
            # A fault of our own: whoever joined must not wait for ever.
            self.on_failure(UpstreamBroken("the exchange could not be started"))
            raise
        self._flow = flow
        if self._is_over:
            flow.abort()
        self._steer()
        return None

    def on_head(self, head: ReplyHead) -> None:
        self._tape.head = head
        self._poke()

    def on_body(self, raw: bytes, payload: bytes) -> None:
        if not payload:
            return  # a part of the framing, which each member gets anew
        self._tape.append(payload)
        is_long = self._tape.total_bytes > self._limit_bytes
        if is_long:
            self._close()
        self._poke()
        if is_long:
            self._trim()

    def on_end(self) -> None:
        self._tape.whole = True
        self._end()
        self._poke()

    def on_failure(self, error: PilotlightError) -> None:
        self._tape.error = error
        self._end()
        self._poke()

    def _poke(self) -> None:
        for member in tuple(self._members):
            member.poke()

    def _trim(self) -> None:
        for member in tuple(self._members):
            if member.lag_bytes > self._limit_bytes:
                member.fail(UpstreamBroken(TOO_SLOW))
        if self._members:
            self._tape.drop_before(min(member.position for member in self._members))

    def _close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._on_closed()

    def _end(self) -> None:
        self._close()
        if not self._is_over:
            self._is_over = True
            self._on_over(self)


class Flights:
    """The exchanges under way that can be joined.

    Args:
        limit_bytes: See :class:`Shared`.
    """

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._joinable: dict[bytes, Shared] = {}
        self._running: set[Shared] = set()
        self._starting: set[asyncio.Task[PilotlightError | None]] = set()

    def __repr__(self) -> str:
        return f"<Flights {len(self._joinable)} joinable, {len(self._running)} running>"

    def __len__(self) -> int:
        return len(self._running)

    def join(self, key: bytes, sink: Sink) -> Replay | None:
        """Take part in an exchange for the same request.

        Args:
            key: Of the request.
            sink: Gets the reply from its beginning, not before this has returned.

        Returns:
            The flow of this sink alone, or ``None`` where there is nothing to join.
        """
        shared = self._joinable.get(key)
        if shared is None:
            return None
        member = shared.add(sink)
        member.begin()
        return member

    async def until_sent(self, key: bytes) -> None:
        """Wait until the exchange that can be joined now was sent, or is known not to be."""
        shared = self._joinable.get(key)
        if shared is not None and shared.starting is not None and not shared.starting.done():
            await asyncio.wait((shared.starting,))

    async def begin(self, key: bytes, start: Start, sink: Sink) -> Replay:
        """Begin an exchange that others may join; where there is one already, join it.

        Args:
            key: Of the request.
            start: Sends it, and gives the reply to the sink that it is called with. It runs as a task of ours: it goes
                on for the others where this caller is cancelled.
            sink: Gets the reply, not before this has returned.

        Returns:
            The flow of this sink alone.

        Raises:
            PilotlightError: What ``start`` raised. The others get it as a failure.
            ShuttingDown: Closed meanwhile.
        """
        joined = self.join(key, sink)
        if joined is not None:
            return joined
        shared = Shared(self._limit_bytes, on_closed=lambda: self._joinable.pop(key), on_over=self._running.discard)
        self._joinable[key] = shared
        self._running.add(shared)
        member = shared.add(sink)
        task = asyncio.create_task(shared.start(start), name="shared exchange")
        shared.starting = task
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)
        try:
            await asyncio.wait((task,))
            if task.cancelled() or member.is_over:
                raise ShuttingDown("the proxy is shutting down")
            error = task.result()
            if error is not None:
                raise error
        except BaseException:
            member.abort()
            raise
        member.begin()
        return member

    async def aclose(self) -> None:
        """End every exchange; whoever still takes part in one is told."""
        for shared in tuple(self._running):
            shared.close(ShuttingDown("the proxy is shutting down"))
        await asyncio.gather(*self._starting, return_exceptions=True)
