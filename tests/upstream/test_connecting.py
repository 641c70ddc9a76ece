"""A connect that fails is tried again where that may help, and within limits of number, time and load."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import pytest

from proxy.errors import UpstreamBroken, UpstreamUnreachable
from proxy.upstream.breaker import CLOSED, HALF_OPEN, OPEN, Breaker
from proxy.upstream.budget import RetryBudget
from proxy.upstream.connecting import PAUSES_S, Attempt, Connecting
from proxy.upstream.exchange import NoReply

if TYPE_CHECKING:
    from collections.abc import Callable


class Scene:
    """Attempts whose outcomes are a list; each takes ``takes_s`` on a clock of its own."""

    def __init__(self, *outcomes: BaseException | None, takes_s: float = 0.0, breaker: Breaker | None = None) -> None:
        self.now = 0.0
        self.takes_s = takes_s
        self.states: list[str] = []
        self.outcomes = list(outcomes)
        self.connecting = Connecting(
            breaker=breaker, on_state=self.states.append, clock=lambda: self.now, rng=random.Random(1)
        )

    async def connect(self, attempt: Attempt) -> str:
        self.now += self.takes_s
        outcome = self.outcomes.pop(0)
        if outcome is not None:
            raise outcome
        return "a connection"

    async def ask(self, in_flight: int = 1) -> str:
        async with asyncio.timeout(5):
            return await self.connecting.connected(self.connect, lambda: in_flight)


def refused() -> UpstreamUnreachable:
    return UpstreamUnreachable("connection refused")


async def test_a_connect_that_is_refused_is_tried_three_times() -> None:
    scene = Scene(refused(), refused(), None)
    assert await scene.ask() == "a connection"
    assert scene.connecting.attempts == 3
    assert scene.connecting.budget.running == 0


async def test_the_third_refusal_is_the_clients() -> None:
    scene = Scene(refused(), refused(), UpstreamUnreachable("the third"), None)
    with pytest.raises(UpstreamUnreachable, match="the third"):
        await scene.ask()
    assert repr(scene.connecting) == ("<Connecting 3 attempts, <Breaker closed, 3 failures>, <RetryBudget 0 running>>")


async def test_the_pauses_are_drawn_and_stay_below_half_a_second_in_all() -> None:
    loop = asyncio.get_running_loop()
    scene = Scene(refused(), refused(), None)
    drawn = random.Random(1)
    expected_s = sum(drawn.uniform(0, most) for most in PAUSES_S)
    started = loop.time()
    await scene.ask()
    # A timer of the loop may be early by the clock's resolution.
    assert loop.time() - started >= expected_s - 0.01
    assert expected_s <= sum(PAUSES_S) <= 0.5


@pytest.mark.parametrize(("takes_s", "attempts"), [(0.4, 3), (0.9, 2), (1.2, 1), (2.0, 1)])
async def test_none_begins_that_may_not_end_within_two_seconds(takes_s: float, attempts: int) -> None:
    scene = Scene(refused(), refused(), refused(), takes_s=takes_s)
    with pytest.raises(UpstreamUnreachable):
        await scene.ask()
    assert scene.connecting.attempts == attempts


@pytest.mark.parametrize("error", [NoReply("no reply"), UpstreamBroken("malformed"), RuntimeError("a bug")])
async def test_nothing_that_may_have_been_sent_is_tried_again(error: Exception) -> None:
    scene = Scene(error, None)
    with pytest.raises(type(error)):
        await scene.ask()
    assert scene.connecting.attempts == 1
    assert scene.connecting.breaker.failures == isinstance(error, NoReply)


async def test_a_repetition_needs_the_budget() -> None:
    scene = Scene(refused(), None, refused(), refused(), None)
    scene.connecting.budget.on_retry_start()
    with pytest.raises(UpstreamUnreachable):
        await scene.ask(in_flight=19)
    assert await scene.ask(in_flight=1) == "a connection"
    # Of twenty, two may.
    assert await scene.ask(in_flight=20) == "a connection"
    assert scene.connecting.budget.running == 1


async def test_an_open_breaker_refuses_at_once_and_says_for_how_long() -> None:
    scene = Scene(*(refused() for _ in range(5)), None)
    for _ in range(2):
        with pytest.raises(UpstreamUnreachable, match="connection refused"):
            await scene.ask()
    # The second request ended when its second attempt opened the breaker.
    assert (scene.connecting.attempts, scene.states) == (5, [OPEN])
    scene.now = 0.25
    with pytest.raises(UpstreamUnreachable, match="last attempts") as told:
        await scene.ask()
    assert told.value.retry_after_s == 0.75
    assert scene.connecting.attempts == 5
    scene.now = 1.0
    assert await scene.ask() == "a connection"
    assert scene.states == [OPEN, HALF_OPEN, CLOSED]


async def opened(scene: Scene) -> None:
    while scene.connecting.breaker.state != OPEN:
        scene.outcomes.insert(0, NoReply("no reply"))
        with pytest.raises(NoReply):
            await scene.ask()
    scene.now += 1


async def test_a_probe_whose_client_leaves_gives_its_turn_back() -> None:
    scene = Scene(None)
    await opened(scene)
    began = asyncio.Event()

    async def hang(attempt: Attempt) -> str:
        began.set()
        await asyncio.Event().wait()
        return ""

    probe = asyncio.create_task(scene.connecting.connected(hang, lambda: 1))
    await began.wait()
    with pytest.raises(UpstreamUnreachable):
        await scene.ask()
    probe.cancel()
    with pytest.raises(asyncio.CancelledError):
        await probe
    assert await scene.ask() == "a connection"


async def test_a_client_that_leaves_in_a_pause_gives_the_budget_back() -> None:
    failed = asyncio.Event()
    connecting = Connecting(budget=RetryBudget(least=1), rng=random.Random(1))

    async def connect(attempt: Attempt) -> str:
        failed.set()
        raise refused()

    asking = asyncio.create_task(connecting.connected(connect, lambda: 1))
    await failed.wait()
    await asyncio.sleep(0)
    assert connecting.budget.running == 1
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert connecting.budget.running == 0
    assert connecting.attempts == 1


def on_connected(attempt: Attempt) -> None:
    attempt.on_connected()


def on_reused(attempt: Attempt) -> None:
    attempt.on_reused()


def on_answer(attempt: Attempt) -> None:
    attempt.on_answer()


@pytest.mark.parametrize("told", [on_connected, on_reused, on_answer])
async def test_a_probe_that_goes_on_to_its_answer_holds_no_one_up(told: Callable[[Attempt], None]) -> None:
    scene = Scene(None)
    await opened(scene)
    began, ends = asyncio.Event(), asyncio.Event()

    async def long(attempt: Attempt) -> str:
        told(attempt)
        began.set()
        await ends.wait()
        return "an answer"

    probe = asyncio.create_task(scene.connecting.connected(long, lambda: 1))
    await began.wait()
    assert await scene.ask() == "a connection"
    ends.set()
    assert await probe == "an answer"
    assert scene.connecting.breaker.state == CLOSED


async def test_a_stale_connection_says_nothing_about_the_upstream() -> None:
    scene = Scene()

    async def stale(attempt: Attempt) -> str:
        attempt.on_reused()
        raise NoReply("stale")

    for _ in range(10):
        with pytest.raises(NoReply):
            await scene.connecting.connected(stale, lambda: 1)
    assert scene.connecting.breaker.failures == 0
