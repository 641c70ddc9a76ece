"""Which models are in memory: loading, sharing, unloading, making room.

One request at a time is *pending*: while it waits for an unload or loads, every other request that needs the scheduler
waits in a bounded queue, and requests for a loaded model with the same options pass. A load belongs to the request
that caused it and is given up when that client leaves.

Source: Ollama v0.24.0 ``server/sched.go`` (``GetRunner``, ``processPending``, ``processCompleted``, ``load``).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from proxy.simulator.engine.faults import IN_LOAD, OUT_OF_MEMORY, Faults, Gate
from proxy.simulator.engine.options import RunnerOptions
from proxy.simulator.engine.runner import Pace, Runner
from proxy.simulator.golang.clock import MAX_DURATION_NS, NANOSECONDS
from proxy.simulator.golang.jsonin import GoError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from proxy.simulator.engine.model import Model
    from proxy.simulator.engine.weights import Weights

BUSY: Final = "server busy, please try again.  maximum pending requests exceeded"


class ServerBusy(GoError):
    """``ErrMaxQueue``."""

    def __init__(self) -> None:
        super().__init__(BUSY)


@dataclass(frozen=True, slots=True)
class Machine:
    """What the machine has, and the server's environment.

    Attributes:
        vram_bytes: memory of the GPU; 0 for none.
        parallel: OLLAMA_NUM_PARALLEL.
        max_loaded: OLLAMA_MAX_LOADED_MODELS; 3 is what Ollama picks for one GPU or none.
        max_queue: OLLAMA_MAX_QUEUE.
        keep_alive_ns: OLLAMA_KEEP_ALIVE.
        num_ctx: OLLAMA_CONTEXT_LENGTH, or what Ollama picks for this much memory.
        unload_s: seconds that an unload takes (waiting for memory to come back).
    """

    vram_bytes: int = 0
    parallel: int = 1
    max_loaded: int = 3
    max_queue: int = 512
    keep_alive_ns: int = 300 * NANOSECONDS
    num_ctx: int = 4096
    unload_s: float = 0.0

    def with_changes(self, changes: Mapping[str, object]) -> Machine:
        """The same machine but for these fields."""
        return replace(self, **changes)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class LoadRecord:
    """One load, for tests and statistics: "ok", "aborted" or "failed"."""

    model: str
    options: RunnerOptions
    outcome: str
    was_reload: bool
    started_s: float
    seconds: float


@dataclass(slots=True)
class _Pending:
    model: Model
    options: RunnerOptions
    keep_alive_ns: int | None
    granted: asyncio.Future[Runner]
    gone: asyncio.Event = field(default_factory=asyncio.Event)


class Scheduler:
    """The owner of all runners of one server."""

    def __init__(self, machine: Machine, pace: Pace, faults: Faults, gate: Gate) -> None:
        self.machine = machine
        self.loaded: dict[str, Runner] = {}
        self.loading: Model | None = None
        self.loads: list[LoadRecord] = []
        self._pace = pace
        self._faults = faults
        self._gate = gate
        self._queue: deque[_Pending] = deque()
        self._work = asyncio.Event()
        self._unloaded = asyncio.Event()
        self._unloading: dict[Runner, asyncio.Task[None]] = {}
        self._loop_task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to serve pending requests."""
        self._loop_task = asyncio.get_running_loop().create_task(self._serve_pending())

    async def aclose(self) -> None:
        """Unload everything and stop."""
        tasks = [*self._unloading.values(), *([self._loop_task] if self._loop_task else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for runner in self.loaded.values():
            _stop_timer(runner)
        self.loaded.clear()

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._queue)

    @asynccontextmanager
    async def runner(self, model: Model, options: RunnerOptions, keep_alive_ns: int | None) -> AsyncIterator[Runner]:
        """A runner for as long as the request lives.

        Raises:
            ServerBusy: the queue is full.
            GoError: the load failed.
        """
        options = _at_least(options, model)
        runner = self.loaded.get(model.key)
        if runner is not None and not self._needs_reload(runner, options):
            self._use(runner, keep_alive_ns)
        else:
            runner = await self._wait(model, options, keep_alive_ns)
        try:
            yield runner
        finally:
            self._release(runner)

    async def _wait(self, model: Model, options: RunnerOptions, keep_alive_ns: int | None) -> Runner:
        if len(self._queue) >= self.machine.max_queue:
            raise ServerBusy
        pending = _Pending(model, options, keep_alive_ns, asyncio.get_running_loop().create_future())
        self._queue.append(pending)
        self._work.set()
        try:
            return await asyncio.shield(pending.granted)
        except asyncio.CancelledError:
            pending.gone.set()
            if pending.granted.done() and not pending.granted.cancelled() and not pending.granted.exception():
                self._release(pending.granted.result())
            raise

    def _needs_reload(self, runner: Runner, options: RunnerOptions) -> bool:
        return runner.is_dead or runner.options.needs_reload(options)

    def _use(self, runner: Runner, keep_alive_ns: int | None) -> None:
        runner.users += 1
        _stop_timer(runner)
        if keep_alive_ns is not None:
            runner.keep_alive_ns = keep_alive_ns

    def _release(self, runner: Runner) -> None:
        runner.users -= 1
        if runner.users > 0 or self.loaded.get(runner.model.key) is not runner:
            return
        if runner.keep_alive_ns <= 0:
            self._unload(runner)
            return
        runner.expires_ns = time.time_ns() + runner.keep_alive_ns
        if runner.keep_alive_ns < MAX_DURATION_NS:
            loop = asyncio.get_running_loop()
            runner.expiry = loop.call_later(runner.keep_alive_ns / NANOSECONDS, self._expire, runner)

    def _expire(self, runner: Runner) -> None:
        runner.expiry = None
        if runner.users == 0:
            self._unload(runner)

    def expire(self, model: Model) -> None:
        """The client asked for an unload: at once, or when the last request is done."""
        runner = self.loaded.get(model.key)
        if runner is None:
            return
        runner.expires_ns = time.time_ns()
        self._expire_soon(runner)

    def _expire_soon(self, runner: Runner) -> None:
        _stop_timer(runner)
        runner.keep_alive_ns = 0
        if runner.users <= 0:
            self._unload(runner)

    def _unload(self, runner: Runner) -> None:
        if self.loaded.get(runner.model.key) is not runner or runner in self._unloading:
            return
        _stop_timer(runner)
        self._unloading[runner] = asyncio.get_running_loop().create_task(self._finish_unload(runner))

    async def _finish_unload(self, runner: Runner) -> None:
        runner.is_dead = True
        if self.machine.unload_s:
            await self._pace.spend(self.machine.unload_s)
        if self.loaded.get(runner.model.key) is runner:
            del self.loaded[runner.model.key]
        self._unloading.pop(runner, None)
        self._unloaded.set()

    # -- the pending loop

    async def _serve_pending(self) -> None:
        while True:
            while not self._queue:
                self._work.clear()
                await self._work.wait()
            pending = self._queue.popleft()
            if not pending.gone.is_set():
                await self._serve(pending)

    async def _serve(self, pending: _Pending) -> None:
        was_reload = False
        while True:
            runner = self.loaded.get(pending.model.key)
            room_from: Runner | None
            if runner is not None and not self._needs_reload(runner, pending.options):
                self._use(runner, pending.keep_alive_ns)
                self._grant(pending, runner)
                return
            if runner is not None:
                was_reload, room_from = True, runner
            elif len(self.loaded) >= self.machine.max_loaded:
                room_from = self._to_unload()
            else:
                weights = pending.model.weights
                if weights is None or not self.loaded or self._fits_beside(pending, weights):
                    await self._load(pending, was_reload=was_reload)
                    return
                room_from = self._to_unload()
            self._unloaded.clear()
            if room_from is not None:
                self._expire_soon(room_from)
                await self._unloaded.wait()

    def _grant(self, pending: _Pending, runner: Runner) -> None:
        pending.granted.set_result(runner)
        if pending.gone.is_set():
            self._release(runner)

    def _to_unload(self) -> Runner | None:
        """An idle runner, else the one with the shortest keep_alive."""
        ordered = sorted(self.loaded.values(), key=lambda runner: (runner.keep_alive_ns, runner.model.key))
        return next((runner for runner in ordered if runner.users == 0), ordered[0] if ordered else None)

    def _fits_beside(self, pending: _Pending, weights: Weights) -> bool:
        if not self.machine.vram_bytes:
            return True
        used = sum(runner.vram_bytes for runner in self.loaded.values())
        return used + weights.memory_bytes(self._context(pending, weights)) <= self.machine.vram_bytes

    def _parallel(self, model: Model) -> int:
        return self.machine.parallel if "completion" in model.capabilities() else 1

    def _context(self, pending: _Pending, weights: Weights) -> int:
        return min(pending.options.num_ctx, weights.context_length) * self._parallel(pending.model)

    async def _load(self, pending: _Pending, *, was_reload: bool) -> None:
        weights = pending.model.weights
        begin = asyncio.get_running_loop().time()
        outcome = "ok"
        self.loading = pending.model
        try:
            if weights is None:
                raise GoError("model has no weights")
            runner = Runner(
                pending.model, weights, pending.options, self._parallel(pending.model), self._pace, self._gate
            )
            self._place(runner)
            if not await self._wait_for_load(pending, weights):
                outcome = "aborted"
                if not pending.granted.done():
                    pending.granted.set_exception(
                        GoError("timed out waiting for llama runner to start: context canceled")
                    )
                    pending.granted.exception()
                return
        except GoError as error:
            outcome = "failed"
            if not pending.granted.done():
                pending.granted.set_exception(error)
                pending.granted.exception()
            return
        finally:
            self.loading = None
            seconds = asyncio.get_running_loop().time() - begin
            self.loads.append(
                LoadRecord(pending.model.short_name, pending.options, outcome, was_reload, begin, seconds)
            )
        runner.keep_alive_ns = self.machine.keep_alive_ns if pending.keep_alive_ns is None else pending.keep_alive_ns
        self.loaded[pending.model.key] = runner
        runner.users += 1
        self._grant(pending, runner)

    def _place(self, runner: Runner) -> None:
        """Say how much of the model is in VRAM; with a fixed num_gpu it must fit whole."""
        if not self.machine.vram_bytes or runner.options.num_gpu == 0:
            return
        free = self.machine.vram_bytes - sum(other.vram_bytes for other in self.loaded.values())
        if runner.size_bytes > free and runner.options.num_gpu > 0:
            raise GoError(OUT_OF_MEMORY)
        runner.vram_bytes = min(runner.size_bytes, free)

    async def _wait_for_load(self, pending: _Pending, weights: Weights) -> bool:
        """Let the load take its time; False when its client left."""
        fault = self._faults.take(IN_LOAD, "", pending.model.short_name)
        if fault is not None and fault.kind == "load_error":
            raise GoError(fault.text or OUT_OF_MEMORY)
        seconds = weights.load_s / (self._pace.speed * self._pace.load_scale)
        stalls = fault is not None and fault.kind == "load_stall"
        try:
            # Not wait_for: before Python 3.12 it loses a cancellation that meets the end of what it waits for.
            async with asyncio.timeout(None if stalls else max(seconds, 0.0001)):
                await pending.gone.wait()
        except TimeoutError:
            return not pending.gone.is_set()
        return False


def _stop_timer(runner: Runner) -> None:
    if runner.expiry is not None:
        runner.expiry.cancel()
        runner.expiry = None


def _at_least(options: RunnerOptions, model: Model) -> RunnerOptions:
    """``GetRunner``: at least 4 tokens of context, 2048 for models that see images."""
    least = 2048 if "vision" in model.capabilities() else 4
    if options.num_ctx >= least:
        return options
    return RunnerOptions(
        least, options.num_batch, options.num_gpu, options.main_gpu, options.use_mmap, options.num_thread
    )
