from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.admission.priority import BATCH, INTERACTIVE, NORMAL, Priority
from proxy.admission.queues import Client, Clients, Queue, Ticket


def ticket(number: int, client: str = "x", priority: Priority = NORMAL) -> Ticket:
    return Ticket("a", "a", client, priority, arrived=float(number), number=number)


def take(queue: Queue) -> Ticket:
    lane = queue.first()[2]
    found = next(iter(lane.tickets))
    queue.remove(found, lane)
    return found


def test_the_least_recently_served_client_is_first() -> None:
    queue = Queue()
    late, early = Client("late", 7, True), Client("early", 3, True)
    of_late, of_early = ticket(1, "late"), ticket(2, "early")
    queue.put(of_late, late)
    queue.put(of_early, early)
    assert queue.first()[2].client is early
    early.served = 9
    assert take(queue) is of_late


def test_one_clients_requests_of_several_classes_go_by_arrival() -> None:
    queue, client = Queue(), Client("x", 0, False)
    urgent, batch = ticket(5, priority=INTERACTIVE), ticket(2, priority=BATCH)
    queue.put(urgent, client)
    queue.put(batch, client)
    assert queue.oldest() is batch
    assert [take(queue), take(queue)] == [batch, urgent]


def test_lanes_that_come_and_go_do_not_make_the_heap_grow() -> None:
    queue, client = Queue(), Client("steady", 0, False)
    queue.put(ticket(0, "steady"), client)
    for number in range(1, 1_000):
        passing = ticket(number, f"client-{number}")
        queue.put(passing, Client(passing.client, 0, False))
        assert passing.place is not None
        queue.remove(passing, passing.place)
    assert queue.count == 1
    assert queue.entries < 100


@given(st.lists(st.tuples(st.sampled_from("uvw"), st.sampled_from(Priority), st.booleans()), max_size=60))
def test_everything_comes_out_once_and_each_clients_in_order(steps: list[tuple[str, Priority, bool]]) -> None:
    queue, clients = Queue(), Clients(100)
    left: list[Ticket] = []
    for number, (name, priority, leaves) in enumerate(steps):
        new = ticket(number, name, priority)
        queue.put(new, clients.begin(name))
        if leaves and new.place is not None:
            lane = new.place
            queue.remove(new, lane)
            clients.end(lane.client, served=False)
            left.append(new)
    found = []
    while queue.count:
        oldest = queue.oldest()
        assert oldest is not None
        assert oldest.number == min(each.number for each in queue.tickets())
        lane = queue.first()[2]
        found.append(take(queue))
        clients.end(lane.client, served=True)
    assert {each.number for each in found} | {each.number for each in left} == set(range(len(steps)))
    assert len(found) + len(left) == len(steps)
    for name in "uvw":
        numbers = [each.number for each in found if each.client == name]
        assert numbers == sorted(numbers)
    assert len(clients) == 0


def test_a_new_client_is_before_all_that_are_remembered() -> None:
    clients = Clients(3)
    for name in ("a", "b", "c", "d"):
        clients.served_at_once(name)
    served = {name: clients.begin(name).served for name in ("a", "b", "c", "d", "new")}
    assert served["a"] == served["new"] < served["b"] < served["c"] < served["d"]
    assert clients.remembered == 0


def test_a_client_that_was_never_served_is_not_remembered() -> None:
    clients = Clients(3)
    clients.end(clients.begin("x"), served=False)
    assert (clients.remembered, len(clients)) == (0, 0)
