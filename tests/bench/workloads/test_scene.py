from __future__ import annotations

import asyncio
import contextlib
import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from proxy.bench.workloads.noting import PREPARATION
from proxy.bench.workloads.prompts import Prompts
from proxy.bench.workloads.scene import DIRECT, V1_CHAT, VIA, Scene, Side, SideLostError, WorkloadError
from proxy.bench.workloads.server import Server
from proxy.simulator import SimulatedOllama
from tests.bench.workloads.scenes import plan, profile
from tests.peers import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@contextlib.asynccontextmanager
async def opened(url: str, *more: str, is_shared: bool = False, **wanted: Any) -> AsyncIterator[Scene]:
    """A scene with a side for each address."""
    async with contextlib.AsyncExitStack() as stack:
        sides = []
        for name, address in zip((DIRECT, VIA), (url, *more), strict=False):
            sides.append(Side(name, await stack.enter_async_context(Server(f"--{name}", address, {}))))
        yield Scene(plan("warm", **wanted), sides, Prompts(1), is_shared, time.monotonic())


async def test_a_call_is_noted_with_its_place_and_no_prompt_comes_twice() -> None:
    async with SimulatedOllama(profile()) as simulated, opened(simulated.url) as scene:
        (side,) = scene.sides
        await scene.prepare(side, 1)
        sample = await scene.ask(side, 2, 3, options={"num_ctx": 4096}, system="be brief", keep_alive="7m")
        await scene.ask(side, 2, 4, path=V1_CHAT)
        requests = simulated.requests_for("/api/chat") + simulated.requests_for(V1_CHAT)
    prepared, native, v1 = (json.loads(request.body) for request in requests)
    assert (sample.run, sample.call, sample.excluded, sample.error) == (2, 3, "", None)
    assert [(each.call, each.excluded) for each in side.samples] == [(0, PREPARATION), (3, ""), (4, "")]
    assert prepared["options"] == {"num_predict": 1}
    assert native["options"] == {"num_predict": 2, "num_ctx": 4096}
    assert native["keep_alive"] == "7m"
    assert [message["role"] for message in native["messages"]] == ["system", "user"]
    assert v1["max_tokens"] == 2
    texts = {body["messages"][-1]["content"] for body in (prepared, native, v1)}
    assert len(texts) == 3


async def test_a_call_that_fails_is_noted_and_five_in_a_row_end_the_workload() -> None:
    async with SimulatedOllama(profile()) as simulated, opened(simulated.url) as scene:
        simulated.fail("status", status=500, text="out of luck", times=-1, path="/api/chat")
        (side,) = scene.sides
        for call in range(1, 5):
            await scene.ask(side, 1, call)
        with pytest.raises(WorkloadError, match=r"5 calls in a row have failed, the last one with: .*out of luck"):
            await scene.ask(side, 1, 5)
    assert [sample.call for sample in side.samples if sample.error and "500" in sample.error] == [1, 2, 3, 4, 5]


async def test_an_answer_in_between_begins_the_count_anew() -> None:
    async with SimulatedOllama(profile()) as simulated, opened(simulated.url) as scene:
        (side,) = scene.sides
        for _ in range(2):
            simulated.fail("status", status=500, text="no", times=4, path="/api/chat")
            for _ in range(5):
                await scene.ask(side, 1, 1)
    assert sum(sample.error is not None for sample in side.samples) == 8


async def test_a_side_that_does_not_even_connect_is_lost(unused_tcp_port: int) -> None:
    async with opened(f"http://127.0.0.1:{unused_tcp_port}") as scene:
        (side,) = scene.sides
        for _ in range(4):
            await scene.ask(side, 1, 1)
        with pytest.raises(SideLostError, match="direct does not answer any more"):
            await scene.ask(side, 1, 1)


async def test_a_measured_call_that_is_cut_off_leaves_no_sample_and_another_one_does() -> None:
    async with SimulatedOllama(profile()) as simulated, opened(simulated.url) as scene:
        simulated.gate.close()
        (side,) = scene.sides
        for number, excluded in enumerate(("", "leaves"), 1):
            call = asyncio.create_task(scene.ask(side, 1, 1, excluded=excluded))
            await until(lambda number=number: len(simulated.requests_for("/api/chat")) == number)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
    ((excluded, error, ttft_s),) = [(sample.excluded, sample.error, sample.ttft_s) for sample in side.samples]
    assert (excluded, error, ttft_s) == ("leaves", None, None)


async def test_an_unload_that_is_refused_everywhere_ends_the_workload() -> None:
    async with SimulatedOllama(profile()) as simulated, opened(simulated.url) as scene:
        simulated.fail("status", status=403, text="not from here", path="/api/generate")
        with pytest.raises(WorkloadError, match="direct does not let us unload the model"):
            await scene.unload(scene.sides[0])


async def test_the_background_begins_with_a_first_token_and_all_its_clients_are_cut_off_at_the_end() -> None:
    async with SimulatedOllama(profile()) as simulated, opened(simulated.url, concurrency=3) as scene:
        (side,) = scene.sides
        await scene.prepare(side, 1)
        async with scene.background(side, 1, None, 10):
            waiting = [request for request in simulated.requests_for("/api/chat")[1:] if request.finished_s is None]
            assert len(waiting) == 3
        await until(lambda: all(request.left_s is not None for request in waiting))
    assert {sample.call for sample in side.samples} == {0}


async def test_a_background_that_fails_ends_the_workload() -> None:
    async with SimulatedOllama(profile()) as simulated, opened(simulated.url) as scene:
        simulated.fail("status", status=500, text="no", times=-1, path="/api/chat")
        with pytest.raises(WorkloadError, match="5 calls in a row"):
            async with scene.background(scene.sides[0], 1, None, 1):
                await asyncio.sleep(0)


async def test_before_a_direct_turn_on_one_server_the_proxy_is_asked_to_leave_the_model_alone() -> None:
    async with SimulatedOllama(profile()) as simulated, opened(simulated.url, simulated.url, is_shared=True) as scene:
        direct, via = scene.sides
        await scene.prepare(direct, 1)
        await scene.turn_to(via)
        assert simulated.running
        await scene.turn_to(direct)
        assert not simulated.running


def test_each_side_is_first_in_every_other_turn() -> None:
    sides = [Side(name, Server("", "", {})) for name in (DIRECT, VIA)]
    scene = Scene(plan("warm"), sides, Prompts(1), is_shared=False, zero_s=0.0)
    assert [[side.name for side in scene.in_turn(number)] for number in (1, 2, 3)] == [
        [DIRECT, VIA],
        [VIA, DIRECT],
        [DIRECT, VIA],
    ]
