"""The eight workloads: what each of them does on its sides, run by run.

Every one is a plain coroutine over a ``Scene``. In each run both sides have their turn, the other one first in every
other run, so that whatever the machine does meanwhile falls on both alike.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from proxy.bench.remaining import Expected
from proxy.bench.workloads.noting import LEAVES
from proxy.bench.workloads.prompts import long_system
from proxy.bench.workloads.scene import INTERACTIVE, V1_CHAT, VIA, WorkloadError
from proxy.bench.workloads.server import ServerError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from proxy.bench.workloads.plan import Plan
    from proxy.bench.workloads.scene import Scene, Side

# With sides that disturb each other's options on one Ollama, so many calls of one side come before the other's.
_BLOCK: Final = 10
SYSTEM_CALLS: Final = 3
_SPARE_CTX: Final = 2048
_LEAST_CTX: Final = 512
# What makes the client that leaves the first one: no answer tells that its request has arrived.
AHEAD_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class Workload:
    """One kind of use.

    Attributes:
        description: What the calls are.
        excluded: Which calls are in no figure, and why.
        run: One run, on all sides.
        expected: What a run on one side consists of, for the time that is left.
        needs_second: A second model.
    """

    name: str
    description: str
    excluded: str
    run: Callable[[Scene, int], Awaitable[None]]
    expected: Callable[[Plan], Expected]
    needs_second: bool = False


async def warm(scene: Scene, run: int) -> None:
    """One client, one call after the other; the first one finds the model as the side leaves it."""
    calls = scene.plan.calls
    for side in scene.in_turn(run):
        await _as_after_a_start(scene, side, run)
        await scene.ask(side, run, 1)
        scene.step(1 / len(scene.sides) / calls)
    block = _BLOCK if scene.is_shared else 1
    for turn, first in enumerate(range(2, calls + 1, block)):
        for side in scene.in_turn(run + turn):
            if scene.is_shared:
                await scene.prepare(side, run)
            numbers = range(first, min(first + block, calls + 1))
            for number in numbers:
                if scene.is_over:
                    return
                await scene.ask(side, run, number)
            scene.step(len(numbers) / len(scene.sides) / calls)


async def _as_after_a_start(scene: Scene, side: Side, run: int) -> None:
    """Bring the model into the state in which the first user after a start finds it."""
    model = scene.plan.model
    try:
        if side.name != VIA:
            await scene.unload(side)
        else:
            if scene.is_shared:
                # A request by way of the proxy first, so that it keeps the model; then an unload that it does not hear
                # of, or it would take it for the operator's wish.
                await scene.prepare(side, run)
                await scene.sides[0].server.unload(model)
                await side.server.wait_gone(model)
            await side.server.wait_loaded(model, scene.plan.settle_s)
    except WorkloadError as error:
        scene.note(f"warm: the first call found the model as it was: {error}")
    except ServerError as error:
        raise WorkloadError(str(error)) from None


async def idle(scene: Scene, run: int) -> None:
    """A call, a silence longer than its ``keep_alive``, and the call that counts."""
    for side in scene.in_turn(run):
        await scene.turn_to(side)
        await scene.expire(side, run)
        await scene.ask(side, run, 1, keep_alive=scene.plan.keep_alive)
        scene.step(1 / len(scene.sides))


async def mixed_options(scene: Scene, run: int) -> None:
    """Clients that each ask for other runner options."""
    for side in scene.in_turn(run):
        await scene.turn_to(side)
        await scene.prepare(side, run)
        half = await _half_context(scene, side)
        for call, options in enumerate(({"num_batch": 256}, {"num_ctx": half}, {"num_batch": 128}, {}), 1):
            await scene.ask(side, run, call, options=options)
            scene.step(1 / 4 / len(scene.sides))


async def _half_context(scene: Scene, side: Side) -> int:
    """Another ``num_ctx`` than the loaded one, and smaller, so that it fits into memory too."""
    try:
        loaded = await side.server.loaded(scene.plan.model)
    except ServerError as error:
        raise WorkloadError(str(error)) from None
    context = loaded.context_length if loaded is not None and loaded.context_length else 2 * _SPARE_CTX
    return max(_LEAST_CTX, context // 2)


async def flood(scene: Scene, run: int) -> None:
    """One interactive call while others are at batch work."""
    for side in scene.in_turn(run):
        await scene.turn_to(side)
        await scene.prepare(side, run)
        async with scene.background(side, run, None, scene.plan.background_factor):
            await scene.ask(side, run, 1, headers=INTERACTIVE)
        scene.step(1 / len(scene.sides))


async def swap(scene: Scene, run: int) -> None:
    """One call for the second model while the first one has a steady load."""
    plan = scene.plan
    for side in scene.in_turn(run):
        await scene.turn_to(side)
        await scene.prepare(side, run)
        async with scene.background(side, run, plan.background_calls, plan.background_factor):
            await scene.ask(side, run, 1, model=plan.second_model, headers=INTERACTIVE)
        scene.step(1 / len(scene.sides))


async def shared_load(scene: Scene, run: int) -> None:
    """Several clients at once on a model that is not loaded; the first one leaves in the middle of the load."""
    for side in scene.in_turn(run):
        if side.load_s is None:
            await scene.unload(side)
            side.load_s = (await scene.prepare(side, run)).ttft_s
        await scene.unload(side)
        leaver = asyncio.create_task(scene.ask(side, run, 0, excluded=LEAVES))
        await asyncio.sleep(AHEAD_S)
        stayers = [
            asyncio.create_task(scene.ask(side, run, call, headers=INTERACTIVE))
            for call in range(1, scene.plan.concurrency + 1)
        ]
        try:
            await asyncio.sleep((side.load_s or 0.0) / 2)
        finally:
            leaver.cancel()
            await asyncio.gather(leaver, return_exceptions=True)
            await _all_of(stayers)
        scene.step(1 / len(scene.sides))


async def _all_of(tasks: list[asyncio.Task[Any]]) -> None:
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def long_system_prompt(scene: Scene, run: int) -> None:
    """The same long system prompt with other questions, from a freshly loaded model on."""
    plan = scene.plan
    # Of ours, another one in each run; the user's own is the one that his proxy may know.
    system = plan.system or long_system(plan.seed + run)
    for side in scene.in_turn(run):
        await scene.unload(side)
        try:
            await side.server.load(plan.model)
        except ServerError as error:
            raise WorkloadError(str(error)) from None
        await asyncio.sleep(plan.settle_s)
        for call in range(1, SYSTEM_CALLS + 1):
            await scene.ask(side, run, call, system=system)
        scene.step(1 / len(scene.sides))


async def openai(scene: Scene, run: int) -> None:
    """A client of ``/v1`` and one with runner options of its own, in turn, on the same model."""
    for side in scene.in_turn(run):
        await scene.turn_to(side)
        await scene.prepare(side, run)
        options = {"num_ctx": await _half_context(scene, side)}
        await scene.prepare(side, run, options=options)
        for call in (1, 3):
            await scene.ask(side, run, call, path=V1_CHAT)
            await scene.ask(side, run, call + 1, options=options)
        scene.step(1 / len(scene.sides))


_PREPARED: Final = "one call of a single token before each turn of a side, so that the model is loaded"

WORKLOADS: Final = {
    workload.name: workload
    for workload in (
        Workload(
            "warm",
            "One client, one call after the other. Before the first one the model is unloaded; a proxy gets time to "
            "put it back.",
            "none but the warm-up of each side; where both sides are one Ollama, also a call before each block of ten",
            warm,
            lambda plan: Expected(plan.calls, 1),
        ),
        Workload(
            "idle",
            "A call after a silence longer than the client's own keep_alive.",
            "the call before the silence",
            idle,
            lambda plan: Expected(2, 1, plan.keep_alive_s + 1),
        ),
        Workload(
            "mixed-options",
            "Four clients in turn that ask for num_batch 256, half the loaded num_ctx, num_batch 128, and nothing.",
            _PREPARED,
            mixed_options,
            lambda plan: Expected(5, 4),
        ),
        Workload(
            "flood",
            "One interactive call (X-Priority) when several clients have each sent a long batch call.",
            f"the batch calls, and {_PREPARED}",
            flood,
            lambda plan: Expected(2 + plan.concurrency * plan.background_factor),
        ),
        Workload(
            "swap",
            "One interactive call for the second model while several clients keep the first one busy with batch calls.",
            f"the batch calls, and {_PREPARED}",
            swap,
            lambda plan: Expected(2 + plan.concurrency * plan.background_calls * plan.background_factor, 2),
            needs_second=True,
        ),
        Workload(
            "shared-load",
            "Several clients at once on a model that is not loaded; one more, who asked first, leaves in mid-load.",
            "the client that leaves, and a call that tells how long a load takes",
            shared_load,
            lambda plan: Expected(2 + plan.concurrency, 1.5),
        ),
        Workload(
            "long-system",
            "Three calls with the same long system prompt and other questions, after the model was loaded.",
            "none but the warm-up of each side",
            long_system_prompt,
            lambda plan: Expected(SYSTEM_CALLS, 1, plan.settle_s),
        ),
        Workload(
            "openai",
            "A /v1 client and a native one with half the loaded num_ctx, in turn, twice. Loads that /v1 calls wait for "
            "cannot be seen.",
            _PREPARED,
            openai,
            lambda plan: Expected(6, 5),
        ),
    )
}
