"""Requests that arrive at one Ollama, with a clock that is not real: what a policy makes of hours, in seconds. Pure.

The Ollama here has room for ``max_loaded`` models. It loads on demand, which takes ``load_s`` and the place of the idle
model that was used longest ago; it knows nothing of queues, and fails where a policy starts what cannot run.
"""

from __future__ import annotations

import math
import random
from collections import deque
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import accumulate
from typing import TYPE_CHECKING, Protocol

from proxy.admission.priority import PRIORITIES
from proxy.admission.scheduler import Ticket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from proxy.admission.priority import Priority


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request.

    Attributes:
        at_s: When it comes.
        service_s: How long it runs, once its model is loaded.
    """

    at_s: float
    weights: str
    client: str
    priority: Priority
    service_s: float


@dataclass(frozen=True, slots=True)
class Started:
    """One request that was started.

    Attributes:
        granted_s: When it got a slot.
        began_s: When its model was loaded as well.
    """

    arrival: Arrival
    granted_s: float
    began_s: float

    @property
    def wait_s(self) -> float:
        return self.began_s - self.arrival.at_s


@dataclass(slots=True)
class Outcome:
    """What became of all requests.

    Attributes:
        started: In the order of their grants.
        load_at_s: When each load began.
        refused: Requests that found the queue full.
        ended_s: When the last request ended.
        unserved: Requests that never started.
    """

    started: list[Started] = field(default_factory=list)
    load_at_s: list[float] = field(default_factory=list)
    refused: int = 0
    ended_s: float = 0.0
    unserved: list[Arrival] = field(default_factory=list)

    @property
    def loads(self) -> int:
        return len(self.load_at_s)


class Policy(Protocol):
    """What the scheduler and the baselines have in common."""

    def on_request(self, ticket: Ticket, now: float) -> bool: ...
    def grants(self, now: float) -> list[Ticket]: ...
    def on_done(self, ticket: Ticket, now: float) -> None: ...
    def next_s(self, now: float) -> float | None: ...


class FirstCome:
    """The plain queue: who came first is first, whatever it wants; the next one waits until it has started."""

    def __init__(self, parallel: int, max_loaded: int) -> None:
        self._parallel = parallel
        self._max_loaded = max_loaded
        self._queue: deque[Ticket] = deque()
        self._running: dict[str, int] = {}

    def on_request(self, ticket: Ticket, now: float) -> bool:
        self._queue.append(ticket)
        return True

    def grants(self, now: float) -> list[Ticket]:
        found = []
        while self._queue:
            weights = self._queue[0].weights
            running = self._running.get(weights, 0)
            if running >= self._parallel or (not running and len(self._running) >= self._max_loaded):
                break
            self._running[weights] = running + 1
            found.append(self._queue.popleft())
        return found

    def on_done(self, ticket: Ticket, now: float) -> None:
        self._running[ticket.weights] -= 1
        if not self._running[ticket.weights]:
            del self._running[ticket.weights]

    def next_s(self, now: float) -> float | None:
        return None


class AsOllama:
    """Ollama's own way: a request for a loaded model goes to its runner at once, the others wait for an idle one.

    v0.24.0, server/sched.go: ``GetRunner`` passes what is loaded, ``processPending`` takes the rest in turn and lets
    the first wait until the model that it unloads has nothing left to do.
    """

    def __init__(self, parallel: int, max_loaded: int) -> None:
        self._parallel = parallel
        self._max_loaded = max_loaded
        self._pending: deque[Ticket] = deque()
        self._queues: dict[str, deque[Ticket]] = {}
        self._running: dict[str, int] = {}

    def on_request(self, ticket: Ticket, now: float) -> bool:
        self._queues.get(ticket.weights, self._pending).append(ticket)
        return True

    def grants(self, now: float) -> list[Ticket]:
        while self._pending and self._has_room(self._pending[0].weights):
            self._queues[self._pending[0].weights].append(self._pending.popleft())
        found = []
        for weights, queue in self._queues.items():
            while queue and self._running[weights] < self._parallel:
                self._running[weights] += 1
                found.append(queue.popleft())
        return found

    def on_done(self, ticket: Ticket, now: float) -> None:
        self._running[ticket.weights] -= 1

    def next_s(self, now: float) -> float | None:
        return None

    def _has_room(self, weights: str) -> bool:
        if weights in self._queues:
            return True
        if len(self._queues) >= self._max_loaded:
            idle = next((each for each, queue in self._queues.items() if not queue and not self._running[each]), None)
            if idle is None:
                return False
            del self._queues[idle], self._running[idle]
        self._queues[weights] = deque()
        self._running[weights] = 0
        return True


class _Ollama:
    def __init__(self, max_loaded: int, load_s: float) -> None:
        self._max_loaded = max_loaded
        self._load_s = load_s
        self._ready_s: dict[str, float] = {}  # Least recently used first.
        self._running: dict[str, int] = {}

    def start(self, weights: str, now: float) -> tuple[float, bool]:
        """When the request begins, and whether its model had to be loaded."""
        ready_s = self._ready_s.pop(weights, None)
        loads = ready_s is None
        if ready_s is None:
            if len(self._ready_s) >= self._max_loaded:
                idle = next((each for each in self._ready_s if not self._running[each]), None)
                if idle is None:
                    raise AssertionError(f"{weights} cannot run beside {sorted(self._ready_s)}")
                del self._ready_s[idle]
            ready_s = now + self._load_s
        self._ready_s[weights] = ready_s
        self._running[weights] = self._running.get(weights, 0) + 1
        return max(now, ready_s), loads

    def end(self, weights: str) -> None:
        self._running[weights] -= 1


def simulate(
    policy: Policy,
    arrivals: Sequence[Arrival],
    *,
    max_loaded: int,
    load_s: float,
    then: Callable[[Arrival, float], Arrival | None] | None = None,
) -> Outcome:
    """Let all requests come, run and end.

    Args:
        arrivals: In the order of their times.
        max_loaded: Models that this Ollama has room for.
        load_s: Duration of one load.
        then: Called with each request that has ended and the time; what it returns comes next, not before that time.
    """
    outcome = Outcome()
    ollama = _Ollama(max_loaded, load_s)
    waiting: dict[Ticket, Arrival] = {}
    # (time, number, what arrives, what ends)
    events: list[tuple[float, int, Arrival | None, Ticket | None]] = []
    running: dict[Ticket, Arrival] = {}
    number = 0
    upcoming = iter(arrivals)
    following = next(upcoming, None)
    wake_s = math.inf
    while following is not None or events or wake_s < math.inf:
        event_s = events[0][0] if events else math.inf
        arrives: Arrival | None = None
        ends: Ticket | None = None
        if following is not None and following.at_s <= min(event_s, wake_s):
            now, arrives = following.at_s, following
            following = next(upcoming, None)
        elif event_s <= wake_s:
            now, _, arrives, ends = heappop(events)
        else:
            now = wake_s
        if arrives is not None:
            ticket = Ticket(arrives.weights, arrives.weights, arrives.client, arrives.priority)
            if policy.on_request(ticket, now):
                waiting[ticket] = arrives
            else:
                outcome.refused += 1
        if ends is not None:
            arrival = running.pop(ends)
            policy.on_done(ends, now)
            ollama.end(ends.weights)
            outcome.ended_s = now
            again = then(arrival, now) if then is not None else None
            if again is not None:
                number += 1
                heappush(events, (again.at_s, number, again, None))
        for ticket in policy.grants(now):
            arrival = running[ticket] = waiting.pop(ticket)
            began_s, loads = ollama.start(ticket.weights, now)
            if loads:
                outcome.load_at_s.append(now)
            outcome.started.append(Started(arrival, now, began_s))
            number += 1
            heappush(events, (began_s + arrival.service_s, number, None, ticket))
        next_s = policy.next_s(now) if waiting else None
        wake_s = math.inf if next_s is None else now + next_s
    outcome.unserved = list(waiting.values())
    return outcome


@dataclass(frozen=True, slots=True)
class Mix:
    """Arrivals without a memory (Poisson), of several kinds.

    Attributes:
        count: How many, spread over ``span_s``.
        models: Share by weights.
        priorities: Shares, in the order of the classes.
        clients: How many; the nth sends 1/n as much as the first.
        service_s: The mean; single times are exponential.
    """

    count: int = 100_000
    span_s: float = 3600.0
    models: tuple[tuple[str, float], ...] = (("a", 0.6), ("b", 0.3), ("c", 0.1))
    priorities: tuple[float, float, float] = (0.3, 0.5, 0.2)
    clients: int = 500
    service_s: float = 0.08


def mixed(mix: Mix, seed: int) -> list[Arrival]:
    """The same arrivals for the same seed."""
    chance = random.Random(seed)  # noqa: S311
    names = [name for name, _ in mix.models]
    model_shares = list(accumulate(share for _, share in mix.models))
    class_shares = list(accumulate(mix.priorities))
    clients = [f"client-{nth}" for nth in range(1, mix.clients + 1)]
    client_shares = list(accumulate(1 / nth for nth in range(1, mix.clients + 1)))
    weights = chance.choices(names, cum_weights=model_shares, k=mix.count)
    who = chance.choices(clients, cum_weights=client_shares, k=mix.count)
    priorities = chance.choices(PRIORITIES, cum_weights=class_shares, k=mix.count)
    rate = mix.count / mix.span_s
    found = []
    now = 0.0
    for each, client, priority in zip(weights, who, priorities, strict=True):
        now += chance.expovariate(rate)
        found.append(Arrival(now, each, client, priority, chance.expovariate(1 / mix.service_s)))
    return found


def in_turn(names: Iterable[str], *, at_s: float, service_s: float, priority: Priority) -> list[Arrival]:
    """One request for each name at the same moment, in this order and from different clients."""
    return [Arrival(at_s, name, f"client-{nth}", priority, service_s) for nth, name in enumerate(names)]
