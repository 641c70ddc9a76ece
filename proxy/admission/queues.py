"""Where requests wait: for each model and class a queue in which clients take turns. Pure.

What is here keeps order and counts; which queue is served, and when, is decided in ``scheduler``. Everything that
leaves is really removed, except for an entry of a heap, which stays until it comes to the top or the heap is rebuilt;
a heap never has more than twice its lanes, and a few. An ``OrderedDict`` serves as a queue that can be left from the
middle: a plain ``dict`` looks past every removed entry to find its first.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush, heapreplace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from proxy.admission.priority import Priority

_SPARE_ENTRIES: Final = 64


@dataclass(slots=True, eq=False)
class Ticket:
    """One request that wants a slot. Made by the owner, and from then on changed by the scheduler only.

    Attributes:
        weights: The key of the runner; requests for names that share one blob share it.
        model: The name that was asked for, to be shown.
        client: Whose turn it uses.
        priority: The class it came with.
        arrived: Monotonic seconds; set by ``on_request``.
        number: Counts requests; set by ``on_request``.
        effective: The class that it has come to by waiting.
        running: It has a slot.
        place: Where it waits; ``None`` once it does not.
    """

    weights: str
    model: str
    client: str
    priority: Priority
    arrived: float = 0.0
    number: int = 0
    effective: int = 0
    running: bool = False
    place: Lane | None = field(default=None, repr=False)

    @property
    def waiting(self) -> bool:
        return self.place is not None


@dataclass(slots=True, eq=False)
class Client:
    """A client that has something waiting.

    Attributes:
        served: When it was last given a slot, counted in slots; for a new client a number behind which nobody is.
        waiting: Its requests, in all queues.
        known: It has been served.
    """

    name: str
    served: int
    known: bool
    waiting: int = 0


class Clients:
    """Who was served when: of those that have something waiting, and of some that have not.

    A client that sends its requests one by one has nothing waiting in between, and must not be new each time. One that
    is not known counts as served so many slots ago as clients are remembered: that is before all others, and yet an
    endless row of new clients does not keep a known one waiting without end.

    Args:
        remembered: How many are remembered that have nothing waiting.
    """

    def __init__(self, remembered: int) -> None:
        self._remembered = remembered
        self._services = 0
        self._waiting: dict[str, Client] = {}
        self._served: OrderedDict[str, int] = OrderedDict()

    def __len__(self) -> int:
        """How many have something waiting."""
        return len(self._waiting)

    @property
    def remembered(self) -> int:
        return len(self._served)

    def begin(self, name: str) -> Client:
        """One more request of this client waits."""
        client = self._waiting.get(name)
        if client is None:
            served = self._served.pop(name, None)
            known = served is not None
            client = Client(name, self._services - self._remembered if served is None else served, known)
            self._waiting[name] = client
        client.waiting += 1
        return client

    def end(self, client: Client, *, served: bool) -> None:
        """One of its requests does not wait any longer; ``served``: because it got a slot."""
        client.waiting -= 1
        if served:
            self._services += 1
            client.served = self._services
            client.known = True
        if not client.waiting:
            del self._waiting[client.name]
            if client.known:
                self._remember(client.name, client.served)

    def served_at_once(self, name: str) -> None:
        """A client that has nothing waiting got a slot."""
        self._services += 1
        self._remember(name, self._services)

    def _remember(self, name: str, served: int) -> None:
        self._served[name] = served
        self._served.move_to_end(name)
        if len(self._served) > self._remembered:
            self._served.popitem(last=False)


@dataclass(slots=True, eq=False)
class Lane:
    """One client's requests of one original class in one queue, in the order of arrival. Empty: gone for good."""

    client: Client
    origin: int
    tickets: OrderedDict[Ticket, None] = field(default_factory=OrderedDict)


Entry = tuple[int, int, Lane]
"""When the lane's client was last served, its first ticket's number, the lane. The smallest is next."""


class Queue:
    """What waits for one model in one effective class.

    One client has a lane for each original class; both have its time of service, so that their first tickets' numbers
    decide: its requests stay in the order of arrival, however they came into this class.
    """

    __slots__ = ("_ages", "_heap", "_lanes", "count")

    def __init__(self) -> None:
        self.count = 0
        self._heap: list[Entry] = []
        self._lanes: dict[tuple[str, int], Lane] = {}
        # By original class, in the order of arrival: for ageing, which all of one origin reach in that order.
        self._ages: tuple[OrderedDict[Ticket, None], ...] = (OrderedDict(), OrderedDict(), OrderedDict())

    def put(self, ticket: Ticket, client: Client) -> None:
        """Add a ticket. Those of one client and original class have to come in the order of their numbers."""
        origin = int(ticket.priority)
        lane = self._lanes.get((client.name, origin))
        if lane is None:
            lane = self._lanes[(client.name, origin)] = Lane(client, origin)
            heappush(self._heap, (client.served, ticket.number, lane))
        lane.tickets[ticket] = None
        self._ages[origin][ticket] = None
        self.count += 1
        ticket.place = lane
        if len(self._heap) > 2 * len(self._lanes) + _SPARE_ENTRIES:
            self._heap = [(at.client.served, next(iter(at.tickets)).number, at) for at in self._lanes.values()]
            heapify(self._heap)

    def remove(self, ticket: Ticket, lane: Lane) -> None:
        del lane.tickets[ticket]
        del self._ages[lane.origin][ticket]
        self.count -= 1
        ticket.place = None
        if not lane.tickets:
            del self._lanes[(lane.client.name, lane.origin)]

    def first(self) -> Entry:
        """The entry of the lane whose turn it is. Only for a queue that is not empty.

        An entry may be older than its client's last service or than its lane's first ticket. Both only ever grow, so
        such an entry comes to the top too early, never too late, and is put right there.
        """
        heap = self._heap
        while True:
            served, number, lane = entry = heap[0]
            if not lane.tickets:
                heappop(heap)
                continue
            head = next(iter(lane.tickets)).number
            if served == lane.client.served and number == head:
                return entry
            heapreplace(heap, (lane.client.served, head, lane))

    def oldest(self) -> Ticket | None:
        """The one that came first."""
        found: Ticket | None = None
        for ages in self._ages:
            if ages:
                ticket = next(iter(ages))
                if found is None or ticket.number < found.number:
                    found = ticket
        return found

    def oldest_of(self, origin: int) -> Ticket | None:
        """The one that came first among those with this original class."""
        ages = self._ages[origin]
        return next(iter(ages)) if ages else None

    def tickets(self) -> list[Ticket]:
        """All, for an overview."""
        return [ticket for lane in self._lanes.values() for ticket in lane.tickets]

    @property
    def entries(self) -> int:
        """How many entries the heap has, those of lanes that are gone included."""
        return len(self._heap)
