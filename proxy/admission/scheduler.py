"""Which requests start now. Pure: told of events with the time, it answers with what starts.

1. Slots: at most ``parallel`` requests run for the same weights, and at most ``max_loaded_models`` different weights
   run at a time. 0 is unknown: models are taken to fit together until one is seen to push another out; from then on
   those two, *rivals*, take turns.
2. Classes: interactive before normal before batch. Each full ``ageing_s`` of waiting lifts a request by one class, its
   *effective* class; class below means that one.
3. Within a class clients take turns: the least recently served goes first, one never served (or not within the last
   10,000 slots) before all others, ties by arrival. One client's own requests go in the order of arrival.
4. Within a class, a request for a resident model, or for one that fits beside those, goes before one that would *swap*:
   displace a resident model. An idle resident model that nobody of that class or a higher one waits for is
   displaced freely. A swap is *due* when a request has waited ``ageing_s`` for it, since its arrival or since the
   model was displaced, whichever was later; a due swap goes before requests for resident models.
5. A due swap that a running model prevents stops new grants of its class and lower ones to that model: it *drains*. A
   model that a request loaded keeps its turn against due swaps for ``ageing_s`` over the number of models that wait
   to be swapped in, while requests of their class or a higher one wait for it. So the ageing bounds the swaps.
6. A class overrides residency: a swap that is prevented, due or not, stops new grants of all lower classes to what
   prevents it.
7. Otherwise no slot stays free while a request that may use it waits.

What Ollama says is loaded is advice: it corrects what is believed of idle models. A model that runs is resident.

Must not know: what a request is, how it waits, what a load costs. Each event costs a few microseconds for each *model*
that is waited for, and the logarithm of the clients that wait; never the number of requests.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from proxy.admission.models import Models
from proxy.admission.priority import LABELS
from proxy.admission.queues import Clients, Ticket

if TYPE_CHECKING:
    from proxy.admission.models import Model
    from proxy.admission.priority import Priority
    from proxy.admission.queues import Client, Lane

__all__ = ["Scheduler", "Snapshot", "Ticket", "Waiting"]

_REMEMBERED_CLIENTS: Final = 10_000
# Ten thousand that came at once would be lifted at once, which takes some 30 ms. The rest follows with the next event.
_LIFTS_AT_ONCE: Final = 200
# Rounding must not make `now + next_s(now)` come a moment too early again and again.
_SHORTEST_WAIT_S: Final = 1e-6

# (class, original class): the lower class first, so that one that has waited for two lifts gets both.
_LIFTED_FROM: Final = ((2, 2), (1, 2), (1, 1))
_CLASSES: Final = (0, 1, 2)


@dataclass(frozen=True, slots=True)
class Waiting:
    """One waiting request, to be shown.

    Attributes:
        position: 1 is looked at first.
        priority: The label of the class that it came with.
        effective: The label of the class that it has now.
    """

    position: int
    model: str
    client: str
    priority: str
    effective: str
    waited_s: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What waits and runs, to be shown; models by name.

    Attributes:
        waiting: In the order in which they would be looked at.
        running: Requests by model.
        resident: Models that are believed to be loaded; those that nobody asked for are shown by their weights.
    """

    waiting: list[Waiting]
    running: dict[str, int]
    resident: list[str]


@dataclass(frozen=True, slots=True)
class _Start:
    """The next grant: the first in this model's queue of this class, after these were displaced."""

    model: Model
    effective: int
    displaced: tuple[Model, ...] = ()


class Scheduler:
    """Decides which requests start. After every event its owner has to ask for the ``grants``.

    Args:
        parallel: Slots for the same weights.
        max_loaded_models: Different weights that can run at a time; 0: unknown.
        max_queue: Requests that may wait; one that can start at once is never refused.
        ageing_s: Waiting this long lifts a request by one class, and makes a swap due.
    """

    def __init__(self, parallel: int, max_loaded_models: int, max_queue: int, ageing_s: float) -> None:
        if parallel < 1 or max_loaded_models < 0 or max_queue < 0 or not ageing_s > 0:
            raise ValueError("parallel and ageing_s must be positive, max_loaded_models and max_queue not negative")
        self._max_queue = max_queue
        self._ageing_s = ageing_s
        self._parallel = parallel
        self._models = Models(parallel, max_loaded_models)
        self._queued: dict[Model, None] = {}
        self._clients = Clients(_REMEMBERED_CLIENTS)
        self._ready: list[Ticket] = []
        self._by_priority = [0, 0, 0]
        self._waiting = 0
        self._running = 0
        self._numbers = 0
        self._lift_at = math.inf  # No lift is due before.
        # Settled: nothing that waits can start, before that time comes or something happens. Most events change too
        # little to look at everything again.
        self._settled = True
        self._settled_until = math.inf
        self._freed: Model | None = None  # All that has happened since is that one slot of this model came free.

    def __repr__(self) -> str:
        return (
            f"<Scheduler {self._running} running, {self._waiting} waiting, {len(self._models.residents)} resident, "
            f"{len(self._models.conflicts)} conflicts>"
        )

    # Events.

    def on_request(self, ticket: Ticket, now: float) -> bool:
        """Take a new request.

        Args:
            ticket: Its ``arrived`` and ``number`` are set.
            now: Monotonic seconds, as everywhere here; never less than in an earlier event.

        Returns:
            False: the queue is full, and the ticket is not kept.
        """
        self._numbers += 1
        ticket.number = self._numbers
        ticket.arrived = now
        ticket.effective = int(ticket.priority)
        model = self._models.of(ticket.weights, ticket.model)
        model.name = ticket.model
        if not self._waiting and self._models.is_open(model):
            self._clients.served_at_once(ticket.client)
            self._start(ticket, model, now)
            return True
        self._enqueue(ticket, model)
        if self._waiting > self._max_queue:
            self._settle(now)
            if ticket.place is not None:
                self._leave_queue(ticket, ticket.place)
                if not model.queues[ticket.effective].count:
                    self._unsettle()
                return False
        return True

    def grants(self, now: float) -> list[Ticket]:
        """Everything that starts now; it counts as running from then on."""
        if self._waiting:
            self._settle(now)
        ready = self._ready
        if ready:
            self._ready = []
        return ready

    def on_done(self, ticket: Ticket, now: float) -> None:
        """A running request has ended. Idempotent; nothing for one that does not run."""
        if not ticket.running:
            return
        ticket.running = False
        self._running -= 1
        model, is_displaced = self._models.end(ticket.weights, now)
        if is_displaced:
            self._unsettle()
        elif self._settled:
            self._settled = False
            self._freed = model
        else:
            self._freed = None

    def on_cancel(self, ticket: Ticket, now: float) -> None:
        """A request is given up; its place in the queue, or its slot, is free. Idempotent."""
        if ticket.place is not None:
            self._leave_queue(ticket, ticket.place)
            self._unsettle()
        elif ticket.running:
            if ticket in self._ready:
                self._ready.remove(ticket)
            self.on_done(ticket, now)

    def on_resident(self, weights: frozenset[str], now: float) -> None:
        """Take Ollama's word for what is loaded, except of models that run."""
        self._unsettle()
        self._models.on_resident(weights)

    def on_eviction(self, lost: str, by: str, now: float) -> None:
        """Loading ``by`` was seen to push out ``lost``; both are weights."""
        if lost == by:
            return
        self._unsettle()
        self._models.on_eviction(lost, by, now)

    def on_fit(self, one: str, other: str) -> None:
        """These two were seen loaded side by side, so they fit after all; both are weights."""
        self._unsettle()
        self._models.on_fit(one, other)

    def on_restart(self) -> None:
        """Ollama has been restarted, perhaps with other settings: forget what is loaded, and what does not fit."""
        self._unsettle()
        self._models.on_restart()

    # Questions.

    @property
    def running(self) -> int:
        return self._running

    def waiting(self, priority: Priority) -> int:
        """How many wait that came with this class."""
        return self._by_priority[priority]

    @property
    def queued(self) -> int:
        """How many wait."""
        return self._waiting

    def slots(self) -> tuple[int, int]:
        """Places that are taken, and those that are free on the models that are believed to be loaded."""
        places = self._parallel * max(1, len(self._models.residents))
        return self._running, max(0, places - self._running)

    def next_s(self, now: float) -> float | None:
        """Seconds until time alone can change something, perhaps too few, never too many; ``None``: it cannot."""
        if not self._waiting:
            return None
        at = min(self._lift_at, self._settled_until if self._settled else self._swap_at(now))
        return None if at == math.inf else max(at - now, _SHORTEST_WAIT_S)

    def position(self, ticket: Ticket) -> int | None:
        """Where a waiting ticket would be looked at, 1 first; ``None``: it does not wait. Not for hot paths."""
        if ticket.place is None:
            return None
        return self._in_order().index(ticket) + 1

    def snapshot(self, now: float) -> Snapshot:
        """An overview for people. Not for hot paths."""
        waiting = [
            Waiting(
                position,
                ticket.model,
                ticket.client,
                LABELS[ticket.priority],
                LABELS[ticket.effective],
                now - ticket.arrived,
            )
            for position, ticket in enumerate(self._in_order(), 1)
        ]
        running: dict[str, int] = {}
        for model in self._models.residents:
            if model.running:
                running[model.name] = running.get(model.name, 0) + model.running
        return Snapshot(waiting, running, sorted(model.name for model in self._models.residents))

    def _in_order(self) -> list[Ticket]:
        """All that wait, as they would be looked at if nothing changed: a client's second comes after all firsts."""
        order = []
        for effective in _CLASSES:
            lines: dict[Client, list[tuple[Ticket, bool]]] = {}
            for model in self._queued:
                swaps = not model.resident and not self._models.fits(model)
                for ticket in model.queues[effective].tickets():
                    if ticket.place is not None:
                        lines.setdefault(ticket.place.client, []).append((ticket, swaps))
            rows = []
            for client, line in lines.items():
                line.sort(key=lambda each: each[0].number)
                rows += [(swaps, nth, client.served, each.number, each) for nth, (each, swaps) in enumerate(line)]
            order += [row[-1] for row in sorted(rows)]
        return order

    # The decision.

    def _settle(self, now: float) -> None:
        """Start all that can start."""
        if now >= self._lift_at:
            self._age(now)
        if now >= self._settled_until:
            self._unsettle()
        if self._settled:
            return
        while self._waiting and (start := self._next(now)) is not None:
            model = start.model
            for other in start.displaced:
                self._models.displace(other, now)
            lane = model.queues[start.effective].first()[2]
            ticket = next(iter(lane.tickets))
            self._leave_queue(ticket, lane, served=True)
            self._start(ticket, model, now)
            if model is self._freed and not start.displaced:
                # The slot is taken again, and everything else is as it was.
                self._settled = True
                return
            self._freed = None
        self._settled = True
        self._settled_until = self._swap_at(now)

    def _unsettle(self) -> None:
        self._settled = False
        self._freed = None

    def _next(self, now: float) -> _Start | None:
        """What starts next, by the rules in the module's text."""
        # Closed to the class that is looked at and all lower ones.
        held: set[Model] = set()
        for effective in _CLASSES:  # 2
            opened: list[Model] = []
            swapping: list[Model] = []
            for model in self._queued:
                if model.queues[effective].count:
                    if self._models.is_open(model):
                        opened.append(model)
                    elif not model.running and not model.resident:
                        swapping.append(model)
            if swapping:
                start = self._due_swap(swapping, effective, now, held)
                if start is not None:
                    return start
            best = None
            for model in opened:
                if model not in held:
                    first = model.queues[effective].first()
                    if best is None or first < best:  # 3
                        best, found = first, model
            if best is not None:
                return _Start(found, effective)
            if swapping:
                start = self._free_swap(swapping, effective, held)
                if start is not None:
                    return start
        return None

    def _due_swap(self, swapping: list[Model], effective: int, now: float, held: set[Model]) -> _Start | None:
        """The due swap that can be made (4); those that cannot hold what is in their way (5)."""
        due = sorted(
            ((due_at, model) for model in swapping if (due_at := self._due_at(model, effective)) <= now),
            key=lambda each: each[0],
        )
        if not due:
            return None
        turn_s = self._turn_s()
        protected = {
            other for other in self._models.residents if other.since + turn_s > now and other.waits_up_to(effective)
        }
        for _, model in due:
            if model in held:
                continue
            displaced, drains = self._models.in_the_way(model, held, protected)
            if displaced is not None:
                return _Start(model, effective, displaced)
            held.update(drains)
        return None

    def _free_swap(self, swapping: list[Model], effective: int, held: set[Model]) -> _Start | None:
        """A swap that costs nobody of this class a turn (4); those that cannot be made hold lower classes (6)."""
        for model in sorted(swapping, key=lambda each: each.queues[effective].first()[:2]):
            if model in held:
                continue
            displaced, drains = self._models.in_the_way(model, held, set())
            if displaced is not None:
                return _Start(model, effective, displaced)
            held.update(drains)
        return None

    def _due_at(self, model: Model, effective: int) -> float:
        oldest = model.queues[effective].oldest()
        if oldest is None:
            return math.inf
        return max(oldest.arrived, model.displaced_at) + self._ageing_s

    def _turn_s(self) -> float:
        """How long a model that was swapped in keeps its turn (5)."""
        return self._ageing_s / max(1, sum(not model.resident for model in self._queued))

    def _swap_at(self, now: float) -> float:
        """When a swap becomes due or a turn ends, the next time; inf: never."""
        at = math.inf
        if all(model.resident for model in self._queued):
            return at
        turn_s = self._turn_s()
        for model in self._queued:
            if model.resident:
                if model.since + turn_s > now:  # As in _due_swap: rounded differently, the one could miss the other.
                    at = min(at, model.since + turn_s)
            else:
                for effective, queue in enumerate(model.queues):
                    if queue.count:
                        due_at = self._due_at(model, effective)
                        if due_at > now:
                            at = min(at, due_at)
        return at

    def _age(self, now: float) -> None:
        """Lift what has waited long enough (2)."""
        left = _LIFTS_AT_ONCE
        lift_at = math.inf
        for effective, origin in _LIFTED_FROM:
            wait_s = (origin - effective + 1) * self._ageing_s
            for model in self._queued:
                queue = model.queues[effective]
                while (ticket := queue.oldest_of(origin)) is not None:
                    if ticket.arrived + wait_s > now or not left:
                        lift_at = min(lift_at, ticket.arrived + wait_s)
                        break
                    left -= 1
                    lane = ticket.place
                    if lane is not None:
                        queue.remove(ticket, lane)
                        ticket.effective = effective - 1
                        lifted_to = model.queues[effective - 1]
                        lifted_to.put(ticket, lane.client)
                        if lifted_to.count == 1 or (not model.resident and lifted_to.oldest() is ticket):
                            # The first there, or the first to be due.
                            self._unsettle()
        self._lift_at = lift_at

    # State.

    def _start(self, ticket: Ticket, model: Model, now: float) -> None:
        ticket.running = True
        self._running += 1
        self._ready.append(ticket)
        self._models.start(model, now)

    def _enqueue(self, ticket: Ticket, model: Model) -> None:
        client = self._clients.begin(ticket.client)
        queue = model.queues[ticket.effective]
        queue.put(ticket, client)
        if queue.count == 1:
            # Behind others that cannot start for the same model and class, it could not either.
            self._unsettle()
        model.waiting += 1
        if model.waiting == 1:
            self._queued[model] = None
        self._waiting += 1
        self._by_priority[ticket.priority] += 1
        if ticket.effective:
            self._lift_at = min(self._lift_at, ticket.arrived + self._ageing_s)

    def _leave_queue(self, ticket: Ticket, lane: Lane, *, served: bool = False) -> None:
        model = self._models.of(ticket.weights, ticket.model)
        model.queues[ticket.effective].remove(ticket, lane)
        model.waiting -= 1
        if not model.waiting:
            del self._queued[model]
        self._waiting -= 1
        self._by_priority[ticket.priority] -= 1
        self._clients.end(lane.client, served=served)
        if not served:
            self._models.forget_unused(model)
