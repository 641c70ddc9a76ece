from __future__ import annotations

import math

import pytest

from proxy.admission.priority import BATCH, INTERACTIVE, NORMAL, Priority
from proxy.admission.scheduler import Scheduler, Ticket
from proxy.bench.own.arrivals import Arrival, in_turn, simulate

AGEING_S = 60.0


class Stage:
    """A scheduler with a clock, and a note of what it has started.

    The names of models are their weights, and each request comes from a client of its own unless one is named.
    """

    def __init__(
        self, parallel: int = 1, max_loaded: int = 1, max_queue: int = 100, ageing_s: float = AGEING_S
    ) -> None:
        self.scheduler = Scheduler(parallel, max_loaded, max_queue, ageing_s)
        self.now = 1_000.0
        self.started: list[Ticket] = []
        self.asked = 0

    def ask(self, model: str = "a", priority: Priority = NORMAL, client: str = "") -> Ticket:
        self.asked += 1
        ticket = Ticket(model, model, client or f"client-{self.asked}", priority)
        assert self.scheduler.on_request(ticket, self.now)
        self._grant()
        return ticket

    def refuses(self, model: str = "a", priority: Priority = NORMAL) -> bool:
        refused = not self.scheduler.on_request(Ticket(model, model, "x", priority), self.now)
        self._grant()
        return refused

    def end(self, ticket: Ticket) -> list[Ticket]:
        """What starts because this one has ended."""
        assert ticket.running
        self.scheduler.on_done(ticket, self.now)
        return self._grant()

    def cancel(self, ticket: Ticket) -> list[Ticket]:
        self.scheduler.on_cancel(ticket, self.now)
        return self._grant()

    def passes(self, seconds: float) -> list[Ticket]:
        self.now += seconds
        return self._grant()

    def _grant(self) -> list[Ticket]:
        granted = self.scheduler.grants(self.now)
        assert all(ticket.running for ticket in granted)
        self.started += granted
        return granted

    def run_out(self) -> list[Ticket]:
        """Let everything end, one after the other; the order in which the rest has started."""
        before = len(self.started)
        for ticket in self.started:
            if ticket.running:
                self.end(ticket)
        return self.started[before:]


# --- slots ---


def test_a_request_that_finds_a_slot_starts_at_once() -> None:
    stage = Stage(parallel=2)
    one, other = stage.ask(), stage.ask()
    assert stage.started == [one, other]
    assert (one.waiting, stage.scheduler.running) == (False, 2)


def test_no_more_than_parallel_run_for_the_same_weights() -> None:
    stage = Stage(parallel=2)
    first, _, third = stage.ask(), stage.ask(), stage.ask()
    assert third.waiting
    assert stage.end(first) == [third]


def test_no_more_models_run_than_fit() -> None:
    stage = Stage(max_loaded=2)
    a, _, c = stage.ask("a"), stage.ask("b"), stage.ask("c")
    assert c.waiting
    assert stage.end(a) == [c]


def test_names_that_share_weights_share_slots() -> None:
    scheduler = Scheduler(1, 0, 10, AGEING_S)
    one, other = Ticket("sha256:1", "a", "x", NORMAL), Ticket("sha256:1", "b", "y", NORMAL)
    assert scheduler.on_request(one, 0.0)
    assert scheduler.on_request(other, 0.0)
    assert scheduler.grants(0.0) == [one]


def test_what_is_granted_is_told_once() -> None:
    stage = Stage()
    stage.ask()
    assert stage.scheduler.grants(stage.now) == []


# --- the queue ---


def test_a_full_queue_refuses() -> None:
    stage = Stage(max_queue=1)
    first, second = stage.ask(), stage.ask()
    assert stage.refuses()
    assert stage.end(first) == [second]
    assert not stage.refuses()


def test_a_request_that_can_start_is_not_refused_by_a_full_queue() -> None:
    stage = Stage(max_loaded=2, max_queue=1)
    stage.ask("a")
    stage.ask("a")
    assert not stage.refuses("b")
    assert stage.refuses("b")


def test_a_queue_of_no_length_still_lets_requests_start() -> None:
    stage = Stage(max_queue=0)
    first = stage.ask("a")
    assert stage.refuses("a")
    stage.end(first)
    assert not stage.refuses("b")


def test_a_refused_request_leaves_no_trace() -> None:
    stage = Stage(max_queue=1)
    running, waiting = stage.ask("a"), stage.ask("a")
    for number in range(50):
        assert stage.refuses(f"model-{number}", INTERACTIVE)
    assert stage.end(running) == [waiting]
    assert stage.scheduler.snapshot(stage.now).resident == ["a"]


def test_five_thousand_at_once_are_admitted_as_far_as_slots_and_queue_go() -> None:
    """R10 of the goals, without the waiting."""
    stage = Stage(parallel=4, max_queue=256)
    scheduler, priorities = stage.scheduler, (INTERACTIVE, NORMAL, BATCH)
    tickets = [Ticket("a", "a", f"client-{n % 50}", priorities[n % 3]) for n in range(5_000)]
    admitted = []
    for ticket in tickets:
        if scheduler.on_request(ticket, stage.now):
            admitted.append(ticket)
        stage.started += scheduler.grants(stage.now)
    assert len(admitted) == 260
    assert (scheduler.running, scheduler.queued) == (4, 256)
    stage.run_out()
    assert sorted(ticket.number for ticket in stage.started) == [ticket.number for ticket in admitted]
    assert (scheduler.running, scheduler.queued) == (0, 0)
    last = {priority: max(stage.started.index(t) for t in admitted if t.priority == priority) for priority in Priority}
    assert last[INTERACTIVE] < last[NORMAL] < last[BATCH]


def test_a_low_class_gets_its_share_of_an_overload_by_ageing() -> None:
    """Interactive requests come faster than they can run, yet batch runs, one in some."""

    def closed(arrival: Arrival, now: float) -> Arrival | None:
        return None if now > 900.0 else Arrival(now, "a", arrival.client, arrival.priority, 1.0)

    first = [Arrival(0.0, "a", f"{priority.label}-{n}", priority, 1.0) for priority in Priority for n in range(8)]
    outcome = simulate(Scheduler(4, 1, 256, AGEING_S), first, max_loaded=1, load_s=0.0, then=closed)
    early = [started for started in outcome.started if started.granted_s <= 900.0]
    batch = [started for started in early if started.arrival.priority is BATCH]
    assert len(batch) >= len(early) / 100
    assert max(started.wait_s for started in batch) < 2 * AGEING_S + 10.0


# --- classes ---


def test_an_interactive_request_waits_for_no_more_than_what_runs() -> None:
    stage = Stage()
    batch = [stage.ask(priority=BATCH) for _ in range(8)]
    urgent = stage.ask(priority=INTERACTIVE)
    assert stage.end(batch[0]) == [urgent]
    assert stage.run_out() == batch[1:]


def test_classes_go_in_their_order() -> None:
    stage = Stage()
    stage.ask()
    batch, normal, urgent = (stage.ask(priority=priority) for priority in (BATCH, NORMAL, INTERACTIVE))
    assert stage.run_out() == [urgent, normal, batch]


@pytest.mark.parametrize(("priority", "lifts"), [(NORMAL, 1), (BATCH, 2)])
def test_waiting_lifts_by_one_class_for_each_full_ageing(priority: Priority, lifts: int) -> None:
    stage = Stage()
    running, old = stage.ask(), stage.ask(priority=priority)
    stage.passes(lifts * AGEING_S - 0.5)
    assert old.effective == 1
    stage.passes(0.5)
    assert old.effective == 0
    young = stage.ask(priority=INTERACTIVE)
    # Both have never been served; the old one came first.
    assert stage.end(running) == [old]
    assert stage.end(old) == [young]


def test_one_that_is_looked_at_late_gets_all_its_lifts() -> None:
    stage = Stage()
    stage.ask()
    old = stage.ask(priority=BATCH)
    stage.passes(10 * AGEING_S)
    assert old.effective == 0


def test_ten_thousand_lifts_at_once_are_made_in_portions() -> None:
    stage = Stage(max_queue=10_000)
    stage.ask()
    crowd = [stage.ask(priority=NORMAL) for _ in range(1_000)]
    stage.passes(AGEING_S)
    assert 0 < sum(ticket.effective == 0 for ticket in crowd) < len(crowd)
    for _ in range(10):
        next_s = stage.scheduler.next_s(stage.now)
        if next_s is not None:
            assert next_s < 0.001
            stage.passes(next_s)
    assert all(ticket.effective == 0 for ticket in crowd)
    assert stage.scheduler.next_s(stage.now) is None


# --- clients ---


def test_a_second_client_is_served_second() -> None:
    stage = Stage()
    running = stage.ask(client="one")
    many = [stage.ask(client="one") for _ in range(5)]
    other = stage.ask(client="other")
    assert stage.end(running) == [other]
    assert stage.run_out() == many


def test_clients_take_turns() -> None:
    stage = Stage()
    stage.ask(client="x")
    one = [stage.ask(client="one") for _ in range(3)]
    other = [stage.ask(client="other") for _ in range(3)]
    assert stage.run_out() == [one[0], other[0], one[1], other[1], one[2], other[2]]


def test_a_client_that_sends_one_request_after_the_other_is_not_new_each_time() -> None:
    stage = Stage()
    running = stage.ask(client="loop")
    patient = [stage.ask(client="patient") for _ in range(3)]
    again = stage.ask(client="loop")
    assert stage.end(running) == [patient[0]]
    assert stage.end(patient[0]) == [again]
    assert stage.end(again) == [patient[1]]


def test_a_clients_own_requests_stay_in_order_however_they_came_to_their_class() -> None:
    stage = Stage()
    stage.ask(client="x")
    batch = stage.ask(priority=BATCH, client="one")
    stage.passes(AGEING_S)
    normal = stage.ask(priority=NORMAL, client="one")
    stage.passes(AGEING_S)
    urgent = stage.ask(priority=INTERACTIVE, client="one")
    assert [ticket.effective for ticket in (batch, normal, urgent)] == [0, 0, 0]
    assert stage.run_out() == [batch, normal, urgent]


def test_only_so_many_clients_are_remembered() -> None:
    stage = Stage(parallel=1, max_queue=1)
    for number in range(10_050):
        stage.end(stage.ask(client=f"client-{number}"))
    assert stage.scheduler._clients.remembered == 10_000


def test_new_clients_without_end_do_not_keep_a_known_one_waiting_without_end() -> None:
    stage = Stage()
    running, known = stage.ask(client="known"), stage.ask(client="known")
    newcomers = 0
    while known.waiting:
        newcomers += 1
        newcomer = stage.ask(client=f"new-{newcomers}")
        (running,) = stage.end(running)
        assert running in (newcomer, known)
    assert 9_990 < newcomers < 10_010


# --- leaving ---


def test_one_that_leaves_frees_its_place_in_the_queue() -> None:
    stage = Stage(max_queue=1)
    running, waiting = stage.ask(), stage.ask()
    assert stage.cancel(waiting) == []
    heir = stage.ask()
    assert stage.end(running) == [heir]


def test_one_that_leaves_frees_its_slot() -> None:
    stage = Stage()
    running, waiting = stage.ask(), stage.ask()
    assert stage.cancel(running) == [waiting]


def test_ending_twice_frees_one_slot() -> None:
    stage = Stage()
    first = stage.ask()
    second, third = stage.ask(), stage.ask()
    stage.end(first)
    for again in (stage.scheduler.on_done, stage.scheduler.on_cancel):
        again(first, stage.now)
        assert stage.scheduler.grants(stage.now) == []
    stage.scheduler.on_done(third, stage.now)
    assert (second.running, third.waiting) == (True, True)


def test_one_that_leaves_before_its_grant_is_told_is_not_granted() -> None:
    scheduler = Scheduler(1, 1, 10, AGEING_S)
    first, second = (Ticket("a", "a", "x", NORMAL) for _ in range(2))
    assert scheduler.on_request(first, 0.0)
    assert scheduler.on_request(second, 0.0)
    scheduler.on_cancel(first, 0.0)
    assert scheduler.grants(0.0) == [second]


def test_those_that_leave_leave_nothing_behind() -> None:
    stage = Stage(max_queue=10_000)
    stage.ask("a")
    steady = stage.ask("a", client="steady")
    for number in range(5_000):
        stage.cancel(stage.ask(f"model-{number % 7}", BATCH, client=f"client-{number}"))
        stage.cancel(stage.ask("a", NORMAL, client=f"client-{number}"))
    scheduler = stage.scheduler
    assert len(scheduler._models) == 1
    assert len(scheduler._clients) == 1
    assert all(queue.entries < 100 for queue in scheduler._models.of("a", "a").queues)
    assert scheduler.queued == 1
    assert steady.waiting


# --- residency ---


def test_six_in_turn_for_two_models_cost_one_load() -> None:
    first = Arrival(0.0, "a", "x", NORMAL, 1.0)
    six = in_turn("ababab", at_s=0.5, service_s=1.0, priority=NORMAL)
    outcome = simulate(Scheduler(1, 1, 10, AGEING_S), [first, *six], max_loaded=1, load_s=5.0)
    assert [started.arrival.weights for started in outcome.started] == list("aaaabbb")
    assert outcome.loads == 2  # That of the first request is one.


def test_an_idle_model_that_nobody_waits_for_is_displaced_at_once() -> None:
    stage = Stage()
    stage.end(stage.ask("a"))
    assert stage.ask("b").running


def test_what_fits_beside_needs_no_swap() -> None:
    stage = Stage(max_loaded=2)
    stage.ask("a")
    a, b = stage.ask("a"), stage.ask("b")
    assert (a.waiting, b.running) == (True, True)


def test_the_idle_model_that_was_used_longest_ago_is_displaced() -> None:
    stage = Stage(max_loaded=2)
    for model in ("a", "b"):
        stage.end(stage.ask(model))
        stage.passes(1.0)
    stage.ask("c")
    assert stage.scheduler.snapshot(stage.now).resident == ["b", "c"]


def test_a_swap_waits_for_requests_of_its_class_for_what_is_resident_until_it_is_due() -> None:
    stage = Stage()
    running = stage.ask("a", INTERACTIVE)
    b = stage.ask("b", INTERACTIVE)
    while stage.now < 1_000.0 + AGEING_S:
        following = stage.ask("a", INTERACTIVE)
        assert stage.end(running) == [following]
        running = following
        stage.passes(10.0)
    following = stage.ask("a", INTERACTIVE)
    assert stage.end(running) == [b]
    assert stage.end(b) == [following]


def test_a_due_swap_makes_the_model_in_its_way_drain() -> None:
    stage = Stage(parallel=2)
    running = [stage.ask("a", INTERACTIVE) for _ in range(2)]
    b = stage.ask("b", INTERACTIVE)
    stage.passes(AGEING_S)
    later = stage.ask("a", INTERACTIVE)
    assert stage.end(running[0]) == []
    assert stage.end(running[1]) == [b]
    assert later.waiting


def test_a_higher_class_overrides_residency() -> None:
    stage = Stage(parallel=2)
    running = [stage.ask("a") for _ in range(2)]
    for _ in range(4):
        stage.ask("a")
    urgent = stage.ask("b", INTERACTIVE)
    assert stage.end(running[0]) == []
    assert stage.end(running[1]) == [urgent]


def test_a_model_that_drains_for_a_lower_class_still_serves_a_higher_one() -> None:
    stage = Stage(parallel=2)
    running = stage.ask("a", NORMAL)
    b = stage.ask("b", NORMAL)
    stage.passes(AGEING_S)
    stage.cancel(b)
    b = stage.ask("b", BATCH)
    stage.passes(AGEING_S)
    assert b.effective == 1
    assert stage.ask("a", NORMAL).waiting
    assert stage.ask("a", INTERACTIVE).running
    assert running.running


def test_a_displaced_model_counts_its_ageing_anew() -> None:
    stage = Stage()
    running = stage.ask("a", INTERACTIVE)
    waiting_a = stage.ask("a", INTERACTIVE)
    b = [stage.ask("b", INTERACTIVE) for _ in range(4)]
    stage.passes(AGEING_S)
    assert stage.end(running) == [b[0]]
    stage.passes(AGEING_S - 1.0)
    assert stage.end(b[0]) == [b[1]]
    stage.passes(1.0)
    assert stage.end(b[1]) == [waiting_a]


def test_one_request_for_another_model_gets_its_turn_and_gives_it_back() -> None:
    """A steady closed loop on A, one request for B: no starvation, and no more swaps than needed."""
    service_s, load_s = 2.0, 5.0

    def closed(arrival: Arrival, now: float) -> Arrival | None:
        again = arrival.weights == "a" and now < 600.0
        return Arrival(now, "a", arrival.client, NORMAL, service_s) if again else None

    loops = [Arrival(0.0, "a", f"client-{n}", NORMAL, service_s) for n in range(6)]
    b = Arrival(10.0, "b", "other", NORMAL, service_s)
    scheduler = Scheduler(2, 1, 100, AGEING_S)
    outcome = simulate(scheduler, [*loops, b], max_loaded=1, load_s=load_s, then=closed)
    (of_b,) = [started for started in outcome.started if started.arrival is b]
    assert of_b.wait_s <= AGEING_S + service_s + load_s
    back = next(s for s in outcome.started if s.granted_s > of_b.granted_s and s.arrival.weights == "a")
    assert back.granted_s == of_b.began_s + service_s
    assert outcome.loads == 3


@pytest.mark.parametrize("others", [1, 2, 4])
def test_swaps_are_bounded_by_the_ageing(others: int) -> None:
    """Closed loops on models of which one fits: each gets turns, of about ageing over the number that wait."""
    end_s = 3_000.0

    def closed(arrival: Arrival, now: float) -> Arrival | None:
        return Arrival(now, arrival.weights, arrival.client, NORMAL, 1.0) if now < end_s else None

    models = "abcdefgh"[: others + 1]
    loops = [Arrival(0.0, model, f"{model}-{n}", NORMAL, 1.0) for model in models for n in range(6)]
    outcome = simulate(Scheduler(2, 1, 100, AGEING_S), loops, max_loaded=1, load_s=2.0, then=closed)
    loads = [at_s for at_s in outcome.load_at_s if at_s < end_s]
    assert len(loads) <= end_s / (AGEING_S / others) + others + 1
    for model in models:
        begun = [s.began_s for s in outcome.started if s.arrival.weights == model and s.began_s < end_s]
        gaps = [later - earlier for earlier, later in zip([0.0, *begun], begun, strict=False)]
        assert max(gaps) <= 2 * AGEING_S + (others + 1) * 4.0, model


def test_what_ollama_says_corrects_belief_about_idle_models_only() -> None:
    stage = Stage(max_loaded=2)
    stage.ask("busy")
    stage.end(stage.ask("idle"))
    stage.scheduler.on_resident(frozenset({"found"}), stage.now)
    assert stage.scheduler.snapshot(stage.now).resident == ["busy", "found"]


def test_more_models_than_fit_are_not_believed() -> None:
    stage = Stage(max_loaded=2)
    stage.scheduler.on_resident(frozenset("abc"), stage.now)
    assert len(stage.scheduler.snapshot(stage.now).resident) == 2


# --- unknown room ---


def test_with_unknown_room_models_are_taken_to_fit() -> None:
    stage = Stage(max_loaded=0)
    assert all(stage.ask(model).running for model in "abcdef")


def test_models_that_pushed_each_other_out_take_turns() -> None:
    stage = Stage(max_loaded=0)
    a, b = stage.ask("a"), stage.ask("b")
    stage.end(a)
    stage.scheduler.on_eviction("a", "b", stage.now)
    a, c = stage.ask("a"), stage.ask("c")
    assert (a.waiting, c.running) == (True, True)
    assert stage.end(b) == [a]
    assert stage.scheduler.snapshot(stage.now).resident == ["a", "c"]


def test_rivals_that_both_run_when_it_is_seen_run_out_before_either_goes_on() -> None:
    stage = Stage(parallel=2, max_loaded=0)
    a, b = stage.ask("a"), stage.ask("b")
    stage.scheduler.on_eviction("a", "b", stage.now)
    again = [stage.ask("a"), stage.ask("b")]
    assert all(ticket.waiting for ticket in again)
    assert stage.end(a) == [again[1]]
    assert stage.end(b) == []
    assert stage.end(again[1]) == [again[0]]


def test_with_known_room_an_eviction_is_no_rivalry() -> None:
    stage = Stage(max_loaded=2)
    stage.end(stage.ask("a"))
    stage.scheduler.on_eviction("a", "b", stage.now)
    assert stage.ask("b").running
    assert stage.ask("a").running


def test_a_restart_forgets_rivals_and_what_is_loaded() -> None:
    stage = Stage(max_loaded=0)
    stage.end(stage.ask("a"))
    stage.scheduler.on_eviction("a", "b", stage.now)
    running = stage.ask("b")
    stage.scheduler.on_restart()
    assert stage.scheduler.snapshot(stage.now).resident == ["b"]
    assert stage.ask("a").running
    assert running.running


def test_only_so_many_rivals_are_remembered() -> None:
    stage = Stage(max_loaded=0)
    for number in range(1_000):
        stage.scheduler.on_eviction(f"a{number}", f"b{number}", stage.now)
    assert len(stage.scheduler._models.conflicts) == 256
    assert len(stage.scheduler._models._rivals) == 512


# --- time and overview ---


def test_time_alone_changes_nothing_where_nothing_waits() -> None:
    stage = Stage()
    assert stage.scheduler.next_s(stage.now) is None
    stage.ask()
    assert stage.scheduler.next_s(stage.now) is None


def test_the_next_change_is_a_lift_or_a_swap_that_becomes_due() -> None:
    stage = Stage()
    stage.ask("a", INTERACTIVE)
    stage.ask("a", INTERACTIVE)
    assert stage.scheduler.next_s(stage.now) is None
    stage.ask("b", INTERACTIVE)
    stage.passes(10.0)
    assert stage.scheduler.next_s(stage.now) == pytest.approx(AGEING_S - 10.0)
    stage.passes(AGEING_S - 10.0)
    assert stage.scheduler.next_s(stage.now) is None
    stage.ask("a", BATCH)
    assert stage.scheduler.next_s(stage.now) == pytest.approx(AGEING_S)


def test_the_overview_lists_who_is_looked_at_first() -> None:
    stage = Stage()
    stage.ask("a", client="one")
    batch = stage.ask("a", BATCH, "one")
    swap = stage.ask("b", NORMAL, "two")
    second = stage.ask("a", NORMAL, "one")
    first = stage.ask("a", NORMAL, "three")
    urgent = stage.ask("b", INTERACTIVE, "four")
    stage.now += 2.0
    snapshot = stage.scheduler.snapshot(stage.now)
    order = [urgent, first, second, swap, batch]
    assert [stage.scheduler.position(ticket) for ticket in order] == [1, 2, 3, 4, 5]
    assert [row.client for row in snapshot.waiting] == ["four", "three", "one", "two", "one"]
    assert snapshot.waiting[0].waited_s == 2.0
    assert (snapshot.waiting[4].priority, snapshot.waiting[4].effective) == ("batch", "batch")
    assert (snapshot.running, snapshot.resident) == ({"a": 1}, ["a"])
    assert stage.scheduler.position(stage.started[0]) is None
    assert [stage.scheduler.waiting(priority) for priority in Priority] == [1, 3, 1]
    assert repr(stage.scheduler) == "<Scheduler 1 running, 5 waiting, 1 resident, 0 conflicts>"


@pytest.mark.parametrize(
    "given", [(0, 1, 1, 1.0), (1, -1, 1, 1.0), (1, 1, -1, 1.0), (1, 1, 1, 0.0), (1, 1, 1, math.nan)]
)
def test_numbers_that_make_no_sense_are_refused(given: tuple[int, int, int, float]) -> None:
    with pytest.raises(ValueError, match="positive"):
        Scheduler(*given)
