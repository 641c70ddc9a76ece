from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

import pytest

from proxy.admission.gate import Gate, Place
from proxy.admission.priority import BATCH, INTERACTIVE, NORMAL, Priority
from proxy.admission.scheduler import Scheduler
from proxy.errors import Overloaded, PilotlightError, ShuttingDown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BUSY = "server busy, please try again.  maximum pending requests exceeded"


class Hall:
    """A gate, what it has told, and requests that stay until they are let go."""

    def __init__(
        self, parallel: int = 1, max_queue: int = 100, max_wait_s: float = 0.0, ageing_s: float = 60.0, models: int = 1
    ) -> None:
        self.scheduler = Scheduler(parallel, models, max_queue, ageing_s)
        self.gauge = dict.fromkeys(("interactive", "normal", "batch"), 0)
        self.waited: list[tuple[str, float]] = []
        self.rejected: list[str] = []
        self.gate = Gate(
            self.scheduler, max_wait_s, time.monotonic, self._count, self._note, lambda why: self.rejected.append(why)
        )
        self.entered: list[str] = []

    def _count(self, label: str, change: int) -> None:
        self.gauge[label] += change

    def _note(self, label: str, seconds: float) -> None:
        self.waited.append((label, seconds))

    def slot(self, model: str = "a", priority: Priority = NORMAL, client: str = "x") -> Place:
        return self.gate.slot(model, model, client, priority)

    async def stay(self, name: str, go: asyncio.Event, model: str = "a", priority: Priority = NORMAL) -> float:
        async with self.slot(model, priority, name) as place:
            self.entered.append(name)
            await go.wait()
            return place.waited_s

    async def queued(self, count: int) -> None:
        await until(lambda: self.scheduler.queued == count)

    def is_empty(self) -> bool:
        return (
            (self.scheduler.running, self.scheduler.queued) == (0, 0)
            and not any(self.gauge.values())
            and not self.gate._waiters
            and self.gate._timer is None
        )


async def until(condition: Callable[[], bool]) -> None:
    """Let others run until this holds."""
    for _ in range(10_000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("never")


def starts_at_once(place: Place) -> bool:
    """Enter without an event loop's help; whatever suspends is still running."""
    entering = place.__aenter__()
    try:
        entering.send(None)
    except StopIteration:
        return True
    entering.close()
    return False


@pytest.fixture
def hall() -> Iterator[Hall]:
    hall = Hall()
    yield hall
    assert hall.is_empty(), hall.gate


# --- the way through ---


async def test_a_request_that_finds_a_slot_does_not_suspend(hall: Hall) -> None:
    place = hall.slot()
    assert starts_at_once(place)
    assert place.waited_s == 0.0
    assert hall.waited == [("normal", 0.0)]
    await place.__aexit__(None, None, None)


async def test_without_a_slot_it_waits_until_one_is_free(hall: Hall) -> None:
    go = asyncio.Event()
    first = asyncio.create_task(hall.stay("first", go))
    await asyncio.sleep(0)
    second = asyncio.create_task(hall.stay("second", go))
    await hall.queued(1)
    assert (hall.entered, hall.gauge["normal"]) == (["first"], 1)
    go.set()
    assert await first == 0.0
    assert await second > 0.0
    assert [label for label, _ in hall.waited] == ["normal", "normal"]
    assert hall.waited[1][1] > 0.0


async def test_a_slot_is_freed_by_an_error_inside(hall: Hall) -> None:
    with pytest.raises(KeyError):
        async with hall.slot():
            raise KeyError
    assert hall.scheduler.running == 0


async def test_the_more_urgent_is_woken_first(hall: Hall) -> None:
    go, gone = asyncio.Event(), asyncio.Event()
    gone.set()
    async with asyncio.TaskGroup() as group:
        group.create_task(hall.stay("first", go))
        await asyncio.sleep(0)
        for name, priority in (("batch", BATCH), ("normal", NORMAL), ("interactive", INTERACTIVE)):
            group.create_task(hall.stay(name, gone, priority=priority))
        await hall.queued(3)
        go.set()
    assert hall.entered == ["first", "interactive", "normal", "batch"]


async def test_one_that_can_start_beside_those_that_wait_does_not_suspend() -> None:
    hall = Hall(models=2)
    go = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(hall.stay("first", go))
        group.create_task(hall.stay("second", go))
        await hall.queued(1)
        place = hall.slot("b")
        assert starts_at_once(place)
        await place.__aexit__(None, None, None)
        go.set()
    assert hall.is_empty()


# --- turned away ---


async def test_a_full_queue_turns_away_with_ollamas_own_text() -> None:
    hall = Hall(max_queue=0)
    async with hall.slot():
        with pytest.raises(Overloaded, match=BUSY) as caught:
            await hall.slot().__aenter__()
    assert caught.value.status == 503
    assert caught.value.retry_after_s is not None
    assert 1 <= caught.value.retry_after_s <= 60
    assert hall.rejected == ["full"]
    assert hall.is_empty()


async def test_one_that_waits_too_long_is_turned_away() -> None:
    hall = Hall(max_wait_s=0.02)
    async with hall.slot():
        with pytest.raises(Overloaded, match=BUSY):
            await hall.slot().__aenter__()
        assert hall.scheduler.queued == 0
    assert hall.rejected == ["timeout"]
    assert [seconds for _, seconds in hall.waited] == [0.0]
    assert hall.is_empty()


async def test_those_that_came_later_are_turned_away_later() -> None:
    hall = Hall(max_wait_s=0.03)
    async with hall.slot():
        waits = [asyncio.create_task(hall.slot().__aenter__()) for _ in range(3)]
        outcomes = await asyncio.gather(*waits, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Overloaded] * 3
    assert hall.rejected == ["timeout"] * 3
    assert hall.is_empty()


async def test_the_time_to_try_again_grows_with_the_queue_and_has_bounds() -> None:
    clock = [0.0]
    gate = Gate(Scheduler(1, 1, 100, 60.0), 0.0, lambda: clock[0], *[lambda *_: None] * 3)  # type: ignore[arg-type]
    unknown = gate._overloaded(clock[0]).retry_after_s
    for _ in range(10):
        async with gate.slot("a", "a", "x", NORMAL):
            clock[0] += 2.0
    assert unknown == 5.0
    assert gate._overloaded(clock[0]).retry_after_s == pytest.approx(2.0, rel=0.2)
    clock[0] += 10_000.0
    assert gate._overloaded(clock[0]).retry_after_s == 60.0


async def test_a_closed_gate_turns_away_those_that_wait_and_those_that_come(hall: Hall) -> None:
    go = asyncio.Event()
    first = asyncio.create_task(hall.stay("first", go))
    await asyncio.sleep(0)
    others = [asyncio.create_task(hall.stay("other", go)) for _ in range(2)]
    await hall.queued(2)
    hall.gate.close(ShuttingDown("bye", retry_after_s=3.0))
    outcomes = await asyncio.gather(*others, return_exceptions=True)
    for outcome in outcomes:
        assert isinstance(outcome, ShuttingDown)
        assert (outcome.message, outcome.retry_after_s) == ("bye", 3.0)
    with pytest.raises(ShuttingDown):
        await hall.slot().__aenter__()
    assert hall.rejected == ["shutdown"] * 3
    assert not first.done()
    go.set()
    await first


# --- cancellation ---


@pytest.mark.parametrize("moment", ["waiting", "granted", "running"])
@pytest.mark.parametrize("way", ["cancel", "deadline", "shutdown"])
async def test_whatever_it_has_is_free_when_it_is_given_up(hall: Hall, moment: str, way: str) -> None:
    """By cancelling its task, by a deadline of its own, and beside the end of the gate."""
    go = asyncio.Event()
    holder = hall.slot()
    assert starts_at_once(holder)
    deadline = asyncio.timeout(None)

    async def victim() -> None:
        async with deadline:
            await hall.stay("victim", go)

    task = asyncio.create_task(victim())
    await hall.queued(1)
    heir = asyncio.create_task(hall.stay("heir", go))
    await hall.queued(2)
    if moment == "running":
        await holder.__aexit__(None, None, None)
        await until(lambda: "victim" in hall.entered)
    if way == "deadline":
        deadline.reschedule(asyncio.get_running_loop().time() - 1.0)
    if moment == "granted":
        # Nothing here lets the victim's task run: it has a slot, and does not know it yet.
        await holder.__aexit__(None, None, None)
        assert hall.scheduler.running == 1
    if way == "shutdown":
        hall.gate.close(ShuttingDown("bye"))
    if way != "deadline":
        task.cancel()
    with pytest.raises((asyncio.CancelledError, TimeoutError)):
        await task
    assert ("victim" in hall.entered) == (moment == "running")
    if moment == "waiting":
        await holder.__aexit__(None, None, None)
    go.set()
    with contextlib.suppress(ShuttingDown):
        await heir
    assert ("heir" in hall.entered) == (way != "shutdown")


async def test_a_grant_that_meets_a_cancellation_is_passed_on_at_once(hall: Hall) -> None:
    go = asyncio.Event()
    holder = hall.slot()
    assert starts_at_once(holder)
    victim = asyncio.create_task(hall.stay("victim", go))
    await hall.queued(1)
    heir = asyncio.create_task(hall.stay("heir", go))
    await hall.queued(2)
    await holder.__aexit__(None, None, None)
    victim.cancel()
    await asyncio.gather(victim, return_exceptions=True)
    await until(lambda: bool(hall.entered))
    assert hall.entered == ["heir"]
    go.set()
    await heir


async def test_a_timeout_that_meets_a_cancellation_leaves_nothing() -> None:
    hall = Hall(max_wait_s=0.01)
    async with hall.slot():
        task = asyncio.create_task(hall.slot().__aenter__())
        await hall.queued(1)
        await hall.queued(0)
        task.cancel()
        outcome = (await asyncio.gather(task, return_exceptions=True))[0]
        assert isinstance(outcome, asyncio.CancelledError | PilotlightError)
    assert hall.is_empty()


async def test_a_crowd_that_comes_and_goes_leaves_nothing(hall: Hall) -> None:
    go = asyncio.Event()
    go.set()
    tasks = [
        asyncio.create_task(hall.stay(f"{n}", go, "ab"[n % 2], (INTERACTIVE, NORMAL, BATCH)[n % 3])) for n in range(90)
    ]
    await asyncio.sleep(0)
    for task in tasks[::4]:
        task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert sum(isinstance(outcome, float) for outcome in outcomes) == len(hall.entered)
    assert len(hall.entered) >= 90 - len(tasks[::4])


# --- time and news ---


async def test_ageing_alone_brings_a_request_its_turn() -> None:
    """The interactive ones for A go on; the one for B is due after the ageing, and the timer sees to it."""
    hall = Hall(ageing_s=0.03)
    go = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        first = group.create_task(hall.stay("a", go, priority=INTERACTIVE))
        await asyncio.sleep(0)
        group.create_task(hall.stay("b", go, "b", BATCH))
        await hall.queued(1)
        (ticket,) = hall.gate._waiters
        await until(lambda: ticket.effective == 0)
        assert not first.done()
        go.set()
    assert hall.is_empty()


async def test_what_is_seen_of_ollama_is_forwarded_and_wakes_whom_it_helps() -> None:
    hall = Hall(models=0)
    hall.gate.on_resident(frozenset({"a"}))
    hall.gate.on_eviction("a", "b")
    go = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(hall.stay("a", go, "a"))
        await asyncio.sleep(0)
        group.create_task(hall.stay("b", go, "b"))
        await hall.queued(1)
        assert hall.entered == ["a"]
        hall.gate.on_restart()
        await hall.queued(0)
        go.set()
    assert hall.entered == ["a", "b"]
    assert hall.is_empty()
    assert repr(hall.gate).startswith("<Gate 0 waiters <Scheduler 0 running")
