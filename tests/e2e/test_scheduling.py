"""Turns, counted at the server: the simulated Ollama directly, and the same load through the proxy."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.pair import Pair, paired
from tests.peers import Answer, client, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

# A noisy machine; nothing here is decided by it.
WITHIN_S = 20.0
# Of the two models only one has a place, and each has one slot.
TIGHT = {"max_loaded": 1, "parallel": 1}


def asks(model: str, text: str = "hi", tokens: int = 1) -> dict[str, Any]:
    return {
        "model": model,
        "messages": [{"role": "user", "content": text}],
        "stream": False,
        "options": {"num_predict": tokens},
    }


async def post(address: str, body: dict[str, Any], *fields: str) -> Answer:
    async with client(address) as peer:
        peer.post("/api/chat", body, *fields)
        answer = await peer.answer()
        assert answer.status == 200, answer.body
        return answer


def sent(pair: Pair) -> int:
    """How many chats reached the server, the proxy's own included."""
    return len(pair.simulated.requests_for("/api/chat"))


async def until_in_line(pair: Pair, address: str, count: int) -> None:
    """So many requests are in the server, or in it and in the queue in front of it."""
    if address == pair.direct:
        await until(lambda: sent(pair) >= count)
    else:
        scheduler = pair.proxy.scheduler
        await until(lambda: scheduler.running + scheduler.queued >= count)


# --- a flood


async def served_order(pair: Pair, address: str) -> list[str]:
    """Eight of batch and then one interactive, one slot: in which order they are answered."""
    order: list[str] = []

    async def ask(text: str, *fields: str) -> None:
        await post(address, asks("tiny", text), *fields)
        order.append(text)

    await post(address, asks("tiny"))
    own = sent(pair) if address == pair.direct else 0
    pair.simulated.gate.close()
    async with asyncio.TaskGroup() as group:
        for number in range(8):
            group.create_task(ask(f"batch {number}", "X-Priority: batch"))
            await until_in_line(pair, address, number + 1 + own)
        group.create_task(ask("interactive", "X-Priority: interactive"))
        await until_in_line(pair, address, 9 + own)
        for answered in range(1, 10):
            pair.simulated.gate.let(1)
            await until(lambda answered=answered: len(order) == answered)  # type: ignore[misc]
        pair.simulated.gate.open()
    return order


async def test_in_a_flood_of_batch_an_interactive_request_waits_for_the_one_that_runs_and_directly_for_all() -> None:
    async with paired(simulator={"parallel": 1}) as pair:
        assert (await served_order(pair, pair.direct))[-1] == "interactive"
    async with paired(simulator={"parallel": 1}, scheduler={"parallel": 1}) as pair:
        assert (await served_order(pair, pair.proxied))[1] == "interactive"


# --- two models, one place


async def loads_of_six_in_turn(pair: Pair, address: str) -> int:
    """Loads for six requests that came in turn for two models, while the first ran; "mid" was there."""
    await post(address, asks("mid"))
    before, there = pair.simulated.loads, sent(pair)
    pair.simulated.gate.close()
    async with asyncio.TaskGroup() as group:
        for number in range(6):
            group.create_task(post(address, asks(("mid", "tiny")[number % 2], str(number))))
            await until_in_line(pair, address, number + 1 + (there if address == pair.direct else 0))
        pair.simulated.gate.open()
    return pair.simulated.loads - before


async def test_six_requests_in_turn_for_two_models_cost_one_load_as_they_do_directly() -> None:
    async with paired(simulator=TIGHT) as pair:
        assert await loads_of_six_in_turn(pair, pair.direct) == 1
    async with paired(simulator=TIGHT, scheduler={"parallel": 1, "max_loaded_models": 1}) as pair:
        assert await loads_of_six_in_turn(pair, pair.proxied) == 1


@pytest.mark.parametrize("parallel", [1, 2])
async def test_where_the_number_of_places_is_unknown_that_is_learnt_from_the_first_time(parallel: int) -> None:
    # Loads of 60 ms: with none at all nothing is ever seen in between.
    simulator = {"speed": 1.0, "load_scale": 5.0, "max_loaded": 1, "parallel": parallel}
    async with paired(simulator=simulator, scheduler={"parallel": parallel, "max_loaded_models": 0}) as pair:
        # A load that a request waits for can cost the model, before that request is sent, to one that was sent before.
        assert await loads_of_six_in_turn(pair, pair.proxied) <= 5
        assert "1 conflicts" in repr(pair.proxy.scheduler)
        assert await loads_of_six_in_turn(pair, pair.proxied) == 1


class Crowd:
    """Clients that ask for one model without a pause."""

    def __init__(self, address: str, model: str) -> None:
        self._address, self._model = address, model
        self.answered = 0
        self.stopping = False

    async def _ask(self, tokens: int) -> None:
        while not self.stopping:
            await post(self._address, asks(self._model, tokens=tokens))
            self.answered += 1

    @contextlib.asynccontextmanager
    async def __call__(self, count: int) -> AsyncIterator[Crowd]:
        async with asyncio.TaskGroup() as group:
            for number in range(count):
                # Of different lengths, so that hardly ever all of them are between two answers.
                group.create_task(self._ask(5 + 3 * number))
            await until(lambda: self.answered >= 2 * count)
            try:
                yield self
            finally:
                self.stopping = True

    async def until_answered(self, more: int) -> None:
        goal = self.answered + more
        await until(lambda: self.answered >= goal, WITHIN_S)


# The loads are short here, generating is not: there is always somebody who runs.
BUSY = {"speed": 1.0, "load_scale": 5.0, "max_loaded": 1, "parallel": 2}


async def test_directly_a_model_that_is_never_idle_starves_another_one() -> None:
    async with paired(simulator=BUSY) as pair, Crowd(pair.direct, "tiny")(3) as crowd:
        starved = asyncio.create_task(post(pair.direct, asks("mid")))
        await crowd.until_answered(100)
        assert not starved.done()
        crowd.stopping = True
        await asyncio.wait_for(starved, WITHIN_S)


@pytest.mark.parametrize("known", [1, 0])
async def test_through_the_proxy_it_gets_its_turn_and_the_other_one_its_own_back(known: int) -> None:
    ageing_s = 0.5
    settings = {"parallel": 2, "max_loaded_models": known, "ageing_s": ageing_s}
    async with paired(simulator=BUSY, scheduler=settings, residency={"check_every_s": 0.1}) as pair:
        # Where it is not known, that the two do not fit is learnt the first time.
        await post(pair.proxied, asks("mid"))
        async with Crowd(pair.proxied, "tiny")(3) as crowd:
            before = pair.simulated.loads
            for _ in range(2):
                # What it may wait: the ageing, what runs (a few ms), and two loads of 60 ms; ten times over.
                await asyncio.wait_for(post(pair.proxied, asks("mid")), 10 * (ageing_s + 0.2))
                assert not crowd.stopping
                await crowd.until_answered(10)
            # There and back again, twice.
            assert pair.simulated.loads - before == 4
            assert pair.running == ["tiny"]


async def test_that_two_models_do_not_fit_is_learnt_before_the_second_is_loaded() -> None:
    settings = {"parallel": 2, "max_loaded_models": 0, "ageing_s": 0.1}
    order: list[str] = []

    async def ask(model: str, text: str) -> None:
        await post(pair.proxied, asks(model, text))
        order.append(text)

    simulator = {"max_loaded": 1, "parallel": 2}
    async with (
        paired(simulator=simulator, scheduler=settings, residency={"check_every_s": 0.05}) as pair,
        asyncio.TaskGroup() as group,
    ):
        await post(pair.proxied, asks("tiny"))
        pair.simulated.gate.close()
        for number, (model, text) in enumerate((("tiny", "runs"), ("mid", "waits for room")), 1):
            group.create_task(ask(model, text))
            await until_in_line(pair, pair.proxied, number)
        # Sent on it would run beside the first, and so would the next one: the model would never be idle.
        await until(lambda: "1 conflicts" in repr(pair.proxy.scheduler))
        group.create_task(ask("tiny", "comes later"))
        await until(lambda: pair.proxy.scheduler.queued == 1)
        pair.simulated.gate.open()
        await until(lambda: len(order) == 3)
        assert order == ["runs", "waits for room", "comes later"]
        assert pair.simulated.loads == 3


@pytest.mark.parametrize("kept", [[], ["tiny"]])
@pytest.mark.parametrize("known", [1, 0])
async def test_two_crowds_share_one_place_and_the_ageing_bounds_the_loads(known: int, kept: list[str]) -> None:
    ageing_s = 0.3
    settings = {"parallel": 2, "max_loaded_models": known, "ageing_s": ageing_s}
    # The keeper is as eager as can be to bring back what it keeps.
    residency = {"check_every_s": 0.02, "return_after_s": 0}
    models = [{"name": name} for name in kept]
    async with paired(simulator=BUSY, scheduler=settings, residency=residency, models=models) as pair:
        await pair.until_ready()
        # Where it is not known, that the two do not fit is learnt the first time.
        await post(pair.proxied, asks("mid"))
        began = time.monotonic()
        async with Crowd(pair.proxied, "tiny")(3) as one, Crowd(pair.proxied, "mid")(3) as other:
            await one.until_answered(1)
            loads = pair.simulated.loads
            await until(lambda: pair.simulated.loads >= loads + 3, WITHIN_S)
            elapsed_s = time.monotonic() - began
            assert pair.simulated.loads <= 2 + 2 * elapsed_s / ageing_s
            await other.until_answered(1)
            await one.until_answered(1)


# --- kept models


@pytest.mark.parametrize(
    ("places", "known", "kept"), [(1, 1, ["mid"]), (1, 0, ["mid"]), (2, 2, ["mid", "tiny"]), (2, 0, ["mid", "tiny"])]
)
async def test_a_kept_model_is_not_brought_back_while_somebody_waits_for_the_one_that_displaced_it(
    places: int, known: int, kept: list[str]
) -> None:
    guest = "big"
    async with paired(
        models=[{"name": name} for name in kept],
        # As eager to bring it back as can be.
        residency={"check_every_s": 0.01, "return_after_s": 0},
        simulator={"max_loaded": places, "parallel": 1},
        scheduler={"parallel": 1, "max_loaded_models": known},
    ) as pair:
        # After it is ready each is warmed by one token, which the gate would hold.
        loaded = pair.simulated.state.scheduler.loaded
        await until(lambda: pair.proxy.is_ready and all(runner.evaluated_tokens for runner in loaded.values()))
        await pair.proxy.residency.idle()
        assert pair.simulated.loads == len(kept)
        pair.simulated.gate.close()
        async with asyncio.TaskGroup() as group:
            for number in range(4):
                group.create_task(post(pair.proxied, asks(guest, str(number))))
            await until_in_line(pair, pair.proxied, 4)
            await until(lambda: guest in pair.running)
            for _ in range(3):
                await looks(pair, 10)
                assert guest in pair.running
                assert pair.simulated.loads == len(kept) + 1
                pair.simulated.gate.let(1)
            pair.simulated.gate.open()
        # Afterwards it comes back, once.
        await until(lambda: pair.running == sorted(kept), WITHIN_S)
        await looks(pair, 20)
        assert pair.simulated.loads == len(kept) + 2


async def looks(pair: Pair, count: int) -> None:
    """Wait until the keeper has looked so many times."""
    before = len(pair.simulated.requests_for("/api/ps"))
    await until(lambda: len(pair.simulated.requests_for("/api/ps")) >= before + count)
