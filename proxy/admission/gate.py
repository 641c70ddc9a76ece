"""Where requests wait for a slot. The scheduler decides; this tells it what happens and wakes whom it names.

One timer for each gate, for whichever is first: the end of somebody's patience, or a decision that only needs time.
There is no task, and a request that gets its slot at once does not touch the event loop.
"""

from __future__ import annotations

import asyncio
import copy
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Final, Self

from proxy.admission.priority import LABELS
from proxy.admission.scheduler import Ticket
from proxy.errors import Overloaded, PilotlightError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from proxy.admission.priority import Priority
    from proxy.admission.scheduler import Scheduler

# v0.24.0, server/sched.go, ErrMaxQueue: with two spaces. Clients know it.
BUSY: Final = "server busy, please try again.  maximum pending requests exceeded"

_COMPLETIONS: Final = 64
_SHORTEST_RETRY_S: Final = 1.0
_LONGEST_RETRY_S: Final = 60.0
# While nothing has ended yet, nobody knows.
_UNKNOWN_RETRY_S: Final = 5.0
# Event loops count in milliseconds and may be that much early.
_TIMER_SLACK_S: Final = 0.001


class Gate:
    """Makes requests wait until the scheduler starts them.

    Args:
        scheduler: Belongs to this gate alone; others may ask it questions.
        max_wait_s: The longest time in the queue; 0: no limit.
        clock: Monotonic seconds.
        on_waiting: Told of each request that begins (1) or stops (-1) to wait, with its class; for a gauge.
        on_waited: Told of each request that got a slot, with its class and the seconds that it waited, mostly 0.
        on_rejected: Told of each one that was turned away: "full", "timeout" or "shutdown".
    """

    def __init__(
        self,
        scheduler: Scheduler,
        max_wait_s: float,
        clock: Callable[[], float],
        on_waiting: Callable[[str, int], None],
        on_waited: Callable[[str, float], None],
        on_rejected: Callable[[str], None],
    ) -> None:
        self._scheduler = scheduler
        self._max_wait_s = max_wait_s
        self._clock = clock
        self._on_waiting = on_waiting
        self._on_waited = on_waited
        self._on_rejected = on_rejected
        # In the order of arrival, so that the first is the first to lose patience.
        self._waiters: OrderedDict[Ticket, Place] = OrderedDict()
        self._done_at: deque[float] = deque(maxlen=_COMPLETIONS)
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._closed: PilotlightError | None = None

    def __repr__(self) -> str:
        return f"<Gate {len(self._waiters)} waiters{' closed' if self._closed else ''} {self._scheduler!r}>"

    def slot(self, weights: str, model: str, client: str, priority: Priority) -> Place:
        """A scope in which the request has a slot: ``async with gate.slot(...) as place``.

        Cancellation at any moment frees what the request has: its place in the queue, or its slot, a slot that it was
        given and does not know of yet included.

        Args:
            weights: The runner's key.
            model: The name that was asked for.
            client: Whose turn it uses.

        Raises:
            Overloaded: On entering. The queue is full, or it waited for ``max_wait_s``.
            PilotlightError: On entering. What the gate was closed with.
        """
        return Place(self, Ticket(weights, model, client, priority))

    def on_resident(self, weights: frozenset[str]) -> None:
        """Ollama says that this is loaded."""
        now = self._clock()
        self._scheduler.on_resident(weights, now)
        self._grant(now)

    def on_eviction(self, lost: str, by: str) -> None:
        """Loading ``by`` was seen to push out ``lost``; both are weights."""
        now = self._clock()
        self._scheduler.on_eviction(lost, by, now)
        self._grant(now)

    def on_fit(self, one: str, other: str) -> None:
        """These two were seen loaded side by side."""
        self._scheduler.on_fit(one, other)
        self._grant(self._clock())

    def on_restart(self) -> None:
        """Ollama has been restarted."""
        self._scheduler.on_restart()
        self._grant(self._clock())

    def close(self, error: PilotlightError) -> None:
        """Turn away everybody who waits or still comes; those that have a slot keep it."""
        self._closed = error
        now = self._clock()
        for place in list(self._waiters.values()):
            self._turn_away(place, "shutdown", copy.copy(error), now)
        self._grant(now)

    def _enter(self, place: Place) -> asyncio.Future[None] | None:
        """Begin to wait; ``None``: it has a slot already."""
        now = self._clock()
        ticket = place.ticket
        if self._closed is not None:
            self._on_rejected("shutdown")
            raise copy.copy(self._closed)
        if not self._scheduler.on_request(ticket, now):
            self._grant(now)
            self._on_rejected("full")
            raise self._overloaded(now)
        if self._waiters:
            place.woken = self._wait(place)
            self._grant(now)
            return None if ticket.running else place.woken
        # Nobody else waits, so what is granted can only be this one.
        self._scheduler.grants(now)
        if ticket.running:
            self._on_waited(LABELS[ticket.priority], 0.0)
            return None
        place.woken = self._wait(place)
        self._arm(now)
        return place.woken

    def _wait(self, place: Place) -> asyncio.Future[None]:
        self._waiters[place.ticket] = place
        self._on_waiting(LABELS[place.ticket.priority], 1)
        return asyncio.get_running_loop().create_future()

    def _stop_waiting(self, ticket: Ticket) -> Place | None:
        """Take it from the waiters, and tell so: once for each that waited, whatever ended it."""
        place = self._waiters.pop(ticket, None)
        if place is not None:
            self._on_waiting(LABELS[ticket.priority], -1)
        return place

    def _leave(self, ticket: Ticket) -> None:
        """It was given up while it waited, or before it knew that it need not wait any longer."""
        now = self._clock()
        self._stop_waiting(ticket)
        self._scheduler.on_cancel(ticket, now)
        self._grant(now)

    def _done(self, ticket: Ticket) -> None:
        now = self._clock()
        self._scheduler.on_done(ticket, now)
        self._done_at.append(now)
        if self._waiters:
            self._grant(now)

    def _grant(self, now: float) -> None:
        """Wake those that start now."""
        for ticket in self._scheduler.grants(now):
            place = self._stop_waiting(ticket)
            if place is not None:
                self._on_waited(LABELS[ticket.priority], now - ticket.arrived)
                place.wake()
        self._arm(now)

    def _turn_away(self, place: Place, reason: str, error: PilotlightError, now: float) -> None:
        self._stop_waiting(place.ticket)
        self._scheduler.on_cancel(place.ticket, now)
        self._on_rejected(reason)
        place.error = error
        place.wake()

    def _overloaded(self, now: float) -> Overloaded:
        """With a guess when a place in the queue has come to its turn: all that wait, at the rate of the last ends."""
        retry_s = _UNKNOWN_RETRY_S
        if self._done_at:
            per_request_s = (now - self._done_at[0]) / len(self._done_at)
            retry_s = (len(self._waiters) + 1) * per_request_s
        return Overloaded(BUSY, retry_after_s=min(max(retry_s, _SHORTEST_RETRY_S), _LONGEST_RETRY_S))

    def _arm(self, now: float) -> None:
        """Set the timer for the next thing that needs only time."""
        if not self._waiters:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            return
        wait_s = self._scheduler.next_s(now)
        if self._max_wait_s:
            left_s = max(0.0, next(iter(self._waiters)).arrived + self._max_wait_s - now)
            wait_s = left_s if wait_s is None else min(wait_s, left_s)
        if wait_s is None:
            return
        at = now + wait_s
        if self._timer is not None:
            # One that comes too early sets itself anew; most events would only put it off.
            if self._timer_at <= at + _TIMER_SLACK_S:
                return
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(wait_s + _TIMER_SLACK_S, self._on_time)
        self._timer_at = at

    def _on_time(self) -> None:
        self._timer = None
        now = self._clock()
        if self._max_wait_s:
            while self._waiters:
                ticket, place = next(iter(self._waiters.items()))
                if ticket.arrived + self._max_wait_s > now:
                    break
                self._turn_away(place, "timeout", self._overloaded(now), now)
        self._grant(now)


class Place:
    """One request's place at the gate, to be entered once.

    Attributes:
        waited_s: Seconds from entering until it went on; 0 where it got its slot at once.
    """

    __slots__ = ("_gate", "error", "ticket", "waited_s", "woken")

    def __init__(self, gate: Gate, ticket: Ticket) -> None:
        self._gate = gate
        self.ticket = ticket
        self.waited_s = 0.0
        self.woken: asyncio.Future[None] | None = None
        self.error: PilotlightError | None = None

    def __repr__(self) -> str:
        return f"<Place {self.ticket!r}>"

    def wake(self) -> None:
        # Its task may have been cancelled and not have run since.
        if self.woken is not None and not self.woken.done():
            self.woken.set_result(None)

    def begin(self) -> asyncio.Future[None] | None:
        """Ask for a slot; ``None``: it is there, else it has to be waited :meth:`until`.

        Raises:
            PilotlightError: As :meth:`Gate.slot`.
        """
        return self._gate._enter(self)

    async def until(self, woken: asyncio.Future[None]) -> None:
        """Wait for the slot.

        Raises:
            PilotlightError: As :meth:`Gate.slot`.
        """
        try:
            await woken
        except BaseException:
            # A slot that was given at the same moment is passed on.
            self._gate._leave(self.ticket)
            raise
        if self.error is not None:
            raise self.error
        self.waited_s = self._gate._clock() - self.ticket.arrived

    async def __aenter__(self) -> Self:
        woken = self.begin()
        if woken is not None:
            await self.until(woken)
        return self

    def leave(self) -> None:
        """Free the slot; for an owner that does not end with the scope that entered. Once."""
        self._gate._done(self.ticket)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()
