"""What holds for the scheduler whatever happens: random events, and random overloads."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.admission.priority import NORMAL, PRIORITIES, Priority
from proxy.admission.scheduler import Scheduler, Ticket
from proxy.bench.own.arrivals import Arrival, simulate

AGEING_S = 10.0
MODELS = "abcd"

requests = st.tuples(
    st.just("request"), st.sampled_from(MODELS), st.sampled_from("uvwxyz"), st.sampled_from(PRIORITIES)
)
events = st.one_of(
    requests,
    requests,
    st.tuples(st.sampled_from(["done", "done", "cancel", "again"]), st.integers(0, 50)),
    st.tuples(st.just("time"), st.sampled_from([0.1, 1.0, AGEING_S / 2, AGEING_S, 3 * AGEING_S])),
    st.tuples(st.just("resident"), st.frozensets(st.sampled_from(MODELS))),
    st.tuples(st.just("eviction"), st.sampled_from(MODELS), st.sampled_from(MODELS)),
    st.just(("restart",)),
)


@dataclass
class World:
    """A scheduler, and one that gets the same events and looks at everything again each time."""

    parallel: int
    max_loaded: int
    max_queue: int
    now: float = 100.0
    admitted: list[Ticket] = field(default_factory=list)
    granted: list[Ticket] = field(default_factory=list)
    left: set[int] = field(default_factory=set)
    rivals: set[frozenset[str]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.scheduler, self.thorough = (
            Scheduler(self.parallel, self.max_loaded, self.max_queue, AGEING_S) for _ in range(2)
        )
        self.twins: dict[Ticket, Ticket] = {}

    @property
    def waiting(self) -> list[Ticket]:
        return [ticket for ticket in self.admitted if ticket.waiting]

    @property
    def running(self) -> list[Ticket]:
        return [ticket for ticket in self.admitted if ticket.running]

    def happens(self, event: tuple[object, ...]) -> None:
        match event:
            case ("request", str(model), str(client), Priority() as priority):
                ticket, twin = (Ticket(model, model, client, priority) for _ in range(2))
                self.twins[ticket] = twin
                taken = self.scheduler.on_request(ticket, self.now)
                assert taken == self.thorough.on_request(twin, self.now)
                if taken:
                    self.admitted.append(ticket)
                else:
                    assert self.scheduler.queued == self.max_queue
                    assert not ticket.waiting
                    assert not ticket.running
            case ("done", int(which)) if self.running:
                self._ends(self.running[which % len(self.running)], "on_done")
            case ("cancel", int(which)) if self.admitted:
                self._ends(self.admitted[which % len(self.admitted)], "on_cancel")
            case ("again", int(which)) if self.left:
                ended = [ticket for ticket in self.admitted if ticket.number in self.left]
                self._ends(ended[which % len(ended)], "on_cancel")
            case ("time", float(seconds)):
                self.now += seconds
            case ("resident", frozenset() as weights):
                self.scheduler.on_resident(weights, self.now)
                self.thorough.on_resident(weights, self.now)
            case ("eviction", str(lost), str(by)):
                self.scheduler.on_eviction(lost, by, self.now)
                self.thorough.on_eviction(lost, by, self.now)
                if lost != by:
                    self.rivals.add(frozenset({lost, by}))
            case ("restart",):
                self.scheduler.on_restart()
                self.thorough.on_restart()
                self.rivals.clear()
            case _:
                return
        self.settles()

    def _ends(self, ticket: Ticket, how: str) -> None:
        self.left.add(ticket.number)
        getattr(self.scheduler, how)(ticket, self.now)
        getattr(self.thorough, how)(self.twins[ticket], self.now)

    def settles(self) -> None:
        before = {ticket.weights for ticket in self.running if ticket in self.granted}
        granted = self.scheduler.grants(self.now)
        self.thorough._unsettle()
        assert [ticket.number for ticket in granted] == [ticket.number for ticket in self.thorough.grants(self.now)]
        assert all(ticket.running for ticket in granted)
        assert not set(granted) & set(self.granted), "runs twice"
        self.granted += granted
        self._check_limits({ticket.weights for ticket in granted} - before)
        self._check_work()

    def _check_limits(self, begun: set[str]) -> None:
        counts = {model: sum(ticket.weights == model for ticket in self.running) for model in MODELS}
        assert max(counts.values()) <= self.parallel
        busy = {model for model, count in counts.items() if count}
        if self.max_loaded:
            assert len(busy) <= self.max_loaded
        else:
            for model in begun:
                assert not any(frozenset({model, other}) in self.rivals for other in busy - {model})
        assert self.scheduler.running == len(self.running)
        assert self.scheduler.queued == len(self.waiting) <= self.max_queue
        for priority in Priority:
            assert self.scheduler.waiting(priority) == sum(ticket.priority is priority for ticket in self.waiting)

    def _check_work(self) -> None:
        """Nothing that waits could start, unless others drain."""
        if not self.waiting:
            return
        assert self.running
        resident = set(self.scheduler.snapshot(self.now).resident)
        busy = {ticket.weights for ticket in self.running}
        if self.max_loaded and all(ticket.weights in resident for ticket in self.waiting):
            for ticket in self.waiting:
                assert sum(other.weights == ticket.weights for other in self.running) == self.parallel
        if self.max_loaded and not all(ticket.weights in resident for ticket in self.waiting):
            assert len(resident) == self.max_loaded
            # An idle model is displaced, unless its own requests were to come first; then it would not be idle.
            assert resident == busy
        for ticket in self.waiting:
            lifts = max(0, int(ticket.priority) - int((self.now - ticket.arrived) / AGEING_S))
            assert ticket.effective == lifts

    def ends(self) -> None:
        """Everything that was admitted has run or left, and nothing is left over."""
        for _ in range(2 * len(self.admitted) + 1):
            if not self.running:
                break
            self.happens(("done", 0))
            self.happens(("time", 1.0))
        assert not self.waiting
        assert {ticket.number for ticket in self.admitted} == {ticket.number for ticket in self.granted} | self.left
        assert (self.scheduler.running, self.scheduler.queued, self.scheduler.next_s(self.now)) == (0, 0, None)
        assert len(self.scheduler._clients) == 0
        assert not self.scheduler._queued
        assert len(self.scheduler._models) == len(self.scheduler._models.residents)


@given(st.integers(1, 3), st.integers(0, 3), st.integers(0, 12), st.lists(events, max_size=80))
@settings(max_examples=400, deadline=None)
def test_nothing_is_lost_or_runs_twice_and_no_limit_is_exceeded(
    parallel: int, max_loaded: int, max_queue: int, sequence: list[tuple[object, ...]]
) -> None:
    world = World(parallel, max_loaded, max_queue)
    for event in sequence:
        world.happens(event)
    world.ends()


@given(st.integers(1, 3), st.integers(0, 3), st.lists(events, max_size=60))
@settings(max_examples=150, deadline=None)
def test_time_changes_something_only_when_it_was_announced(
    parallel: int, max_loaded: int, sequence: list[tuple[object, ...]]
) -> None:
    world = World(parallel, max_loaded, 20)
    for event in sequence:
        world.happens(event)
        next_s = world.scheduler.next_s(world.now)
        if next_s is not None and next_s < 1e-3:
            # Too near: it may be the shortest time that is ever told, and be too late by a rounding.
            world.happens(("time", 0.1))
            continue
        before = [ticket.effective for ticket in world.waiting]
        world.now += 0.999 * (3 * AGEING_S if next_s is None else next_s)
        world.scheduler._unsettle()
        granted = world.scheduler.grants(world.now)
        assert granted == []
        world.thorough.grants(world.now)
        assert [ticket.effective for ticket in world.waiting] == before


@dataclass(frozen=True)
class Crowd:
    """Clients that send their next request as soon as the last one has ended."""

    models: int
    clients: list[tuple[int, Priority]]
    service_s: float
    load_s: float


crowds = st.builds(
    Crowd,
    st.integers(2, 4),
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from(PRIORITIES)), min_size=4, max_size=20),
    st.sampled_from([0.3, 1.0, 3.0]),
    st.sampled_from([0.0, 2.0]),
)


@given(crowds, st.integers(1, 3), st.integers(1, 2), st.integers(0, 3), st.sampled_from(PRIORITIES))
@settings(max_examples=60, deadline=None)
def test_no_request_waits_longer_than_ageing_and_turns_allow(
    crowd: Crowd, parallel: int, max_loaded: int, wanted: int, priority: Priority
) -> None:
    """One request against closed loops of all classes and models.

    It is lifted to the highest class, and the swap to its model is due within one more ageing. Then its model gets a
    turn at the latest each time that it has been displaced for one ageing and the others have had theirs, which share
    another one or take a load and what runs each. In each turn at least one client that came before and has never been
    served is out of its way.
    """

    def closed(arrival: Arrival, now: float) -> Arrival | None:
        is_over = now > 200.0 or arrival.client == "lone"
        return None if is_over else Arrival(now, arrival.weights, arrival.client, arrival.priority, crowd.service_s)

    loops = [
        Arrival(0.0, MODELS[model % crowd.models], f"client-{n}", klass, crowd.service_s)
        for n, (model, klass) in enumerate(crowd.clients)
    ]
    lone = Arrival(7.0, MODELS[wanted % crowd.models], "lone", priority, crowd.service_s)
    scheduler = Scheduler(parallel, max_loaded, 100, AGEING_S)
    outcome = simulate(scheduler, [*loops, lone], max_loaded=max_loaded, load_s=crowd.load_s, then=closed)
    (served,) = [started for started in outcome.started if started.arrival is lone]
    before_it = sum(arrival.weights == lone.weights for arrival in loops)
    turns_s = AGEING_S + (crowd.models + 1) * (crowd.service_s + crowd.load_s)
    assert served.wait_s <= (priority + 1) * AGEING_S + (before_it + 1) * turns_s
    assert outcome.unserved == []


@given(st.integers(1, 4), st.lists(st.sampled_from("uvw"), min_size=2, max_size=30))
def test_clients_of_one_class_and_model_are_served_within_one_of_each_other(parallel: int, clients: list[str]) -> None:
    """While both have something waiting, neither gets two more slots than the other."""
    scheduler = Scheduler(parallel, 1, 100, AGEING_S)
    first = Ticket("a", "a", "first", NORMAL)
    assert scheduler.on_request(first, 0.0)
    blockers = [Ticket("a", "a", "first", NORMAL) for _ in range(parallel - 1)]
    tickets = [Ticket("a", "a", client, NORMAL) for client in clients]
    assert all(scheduler.on_request(ticket, 0.0) for ticket in [*blockers, *tickets])
    running = scheduler.grants(0.0)
    served: dict[str, int] = dict.fromkeys(clients, 0)
    left = {client: clients.count(client) for client in served}
    while running:
        scheduler.on_done(running.pop(0), 0.0)
        for ticket in scheduler.grants(0.0):
            running.append(ticket)
            if ticket.client in served:
                served[ticket.client] += 1
                busy = [served[client] for client in served if served[client] < left[client]]
                assert not busy or max(busy) - min(busy) <= 1
    assert served == left
