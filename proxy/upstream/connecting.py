"""How a connection to the upstream comes about: how often it is tried, and when it is not.

Whoever reaches one upstream shares one :class:`Connecting`. It decides about connects only: a connection that stands
idle is taken without asking, because it is better evidence than a probe.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from typing import TYPE_CHECKING, Final, TypeVar

from proxy.errors import UpstreamUnreachable
from proxy.upstream.breaker import Breaker, Verdict
from proxy.upstream.budget import RetryBudget
from proxy.upstream.exchange import NoReply

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

T = TypeVar("T")

# Longest pause before the second and the third attempt; there is no fourth. This is for a listener whose queue
# overflows for a moment, and for the end of a restart; the whole of one takes longer.
PAUSES_S: Final = (0.1, 0.4)
# All attempts together. The client waits, and is better served by an answer.
WITHIN_S: Final = 2.0


class Attempt:
    """One attempt, as far as the breaker has to know; aiohttp's client tells it what goes on (``session``).

    Attributes:
        is_reused: The request went out on a connection that had carried others.
    """

    __slots__ = ("_breaker", "_clock", "_verdict", "is_reused")

    def __init__(self, breaker: Breaker, verdict: Verdict, clock: Callable[[], float]) -> None:
        self._breaker = breaker
        self._verdict = verdict
        self._clock = clock
        self.is_reused = False

    def on_connected(self) -> None:
        """A new connection stands. What follows may take minutes and holds no one up."""
        if self._verdict is Verdict.PROBE:
            self._verdict = Verdict.PASS
            self._breaker.on_connected(self._clock())

    def on_reused(self) -> None:
        """There was a connection, so this is no probe."""
        self.is_reused = True
        self.close()

    def on_answer(self) -> None:
        """The head of a reply is here."""
        self._verdict = Verdict.PASS
        if self._breaker.failures:
            self._breaker.on_success(self._clock())

    def on_failure(self) -> None:
        if not self.is_reused:
            self._breaker.on_failure(self._clock(), self._verdict)
            self._verdict = Verdict.PASS

    def close(self) -> None:
        """Give back the turn of a probe that had no outcome."""
        if self._verdict is Verdict.PROBE:
            self._verdict = Verdict.PASS
            self._breaker.on_probe_abandoned(self._clock())


class Connecting:
    """Attempts to connect to one upstream.

    Args:
        breaker: Whether it is tried at all; ``None`` for one with its usual numbers.
        budget: How many repeat at the same time; ``None`` likewise.
        on_state: Told of each new state of that breaker, where none was given.
        clock: Monotonic seconds.
        rng: For the pauses.

    Attributes:
        attempts: Connects, and requests through aiohttp's client, that were tried up to now.
    """

    def __init__(
        self,
        *,
        breaker: Breaker | None = None,
        budget: RetryBudget | None = None,
        on_state: Callable[[str], None] = lambda state: None,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self.breaker = Breaker(on_state=on_state) if breaker is None else breaker
        self.budget = RetryBudget() if budget is None else budget
        self._clock = clock
        self._rng = random.Random() if rng is None else rng  # noqa: S311 - jitter
        self.attempts = 0

    def __repr__(self) -> str:
        return f"<Connecting {self.attempts} attempts, {self.breaker!r}, {self.budget!r}>"

    async def connected(self, connect: Callable[[Attempt], Awaitable[T]], in_flight: Callable[[], int]) -> T:
        """Connect, up to three times where that fails.

        Args:
            connect: One attempt. Raises ``UpstreamUnreachable`` where no connection came about and nothing was sent;
                only then it is called again. May go on to the head of a reply, if it tells the attempt of what comes
                before.
            in_flight: Requests under way, this one included.

        Returns:
            What ``connect`` returned.

        Raises:
            UpstreamUnreachable: The last attempt's, or the breaker's, which knows after how long to try again.
            PilotlightError: What else ``connect`` raises, at once.
        """
        started = self._clock()
        repeats = False
        try:
            for longest_pause_s in PAUSES_S:
                began = self._clock()
                try:
                    return await self._attempt(connect)
                except UpstreamUnreachable:
                    now = self._clock()
                    pause_s = self._rng.uniform(0, longest_pause_s)
                    # The next one may take as long as this one did.
                    is_late = now + pause_s + (now - began) > started + WITHIN_S
                    if is_late or self.breaker.retry_after_s(now) > 0:
                        raise
                    if not repeats and not self.budget.may_retry(in_flight()):
                        raise
                if not repeats:
                    repeats = True
                    self.budget.on_retry_start()
                await asyncio.sleep(pause_s)
            return await self._attempt(connect)
        finally:
            if repeats:
                self.budget.on_retry_end()

    @contextlib.contextmanager
    def attempt(self) -> Iterator[Attempt]:
        """The scope of one attempt, which has to be told how it goes.

        Raises:
            UpstreamUnreachable: On entering. The breaker refuses, and knows after how long to try again.
        """
        now = self._clock()
        verdict = self.breaker.allow(now)
        if verdict is Verdict.REFUSE:
            raise UpstreamUnreachable(
                "the upstream cannot be reached: it did not answer the last attempts",
                retry_after_s=self.breaker.retry_after_s(now),
            )
        self.attempts += 1
        attempt = Attempt(self.breaker, verdict, self._clock)
        try:
            yield attempt
        finally:
            attempt.close()

    def on_answer(self) -> None:
        """The upstream answered somebody who did not ask here first."""
        if self.breaker.failures:
            self.breaker.on_success(self._clock())

    async def _attempt(self, connect: Callable[[Attempt], Awaitable[T]]) -> T:
        with self.attempt() as attempt:
            try:
                made = await connect(attempt)
                attempt.on_connected()
            except (UpstreamUnreachable, NoReply):
                attempt.on_failure()
                raise
        return made
