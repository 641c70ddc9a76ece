"""Loads that requests share.

One load at a time for each runner, as a task of its own that no client can cancel: Ollama aborts a load when the
connection that asked for it closes (v0.24.0, llm/server.go, ``WaitUntilRunning`` on the request's context). Whoever
needs the model waits for that task, with a deadline of its own. The tasks belong to :class:`Loads`, which cancels and
awaits them when it is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from proxy.errors import PilotlightError, ShuttingDown, UpstreamBroken, UpstreamUnreachable
from proxy.residency.runner import State
from proxy.wire.durations import parse_keep_alive

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from proxy.residency.runner import Runner
    from proxy.residency.runners import Runners
    from proxy.upstream.ollama import LoadReply, Ollama

# A request for the old set may have been sent a moment ago and not have arrived. Were it overtaken by the load that
# changes the set, Ollama would reload twice. Ollama itself waits for every request that it has.
_LET_SENT_REQUESTS_ARRIVE_S: Final = 0.05
# A load of a resident model takes 1 to 3 ms; longer than this means that Ollama really loaded.
REAL_LOAD_S: Final = 0.1
# A client's keep_alive that is shorter would unload the model between the load and the request that waits for it; 0
# with an empty prompt even means "unload".
_SHORTEST_LOAD_KEEP_ALIVE_S: Final = 30.0

# v0.24.0, llm/server.go: the texts of loads that fail for want of memory, and what a runner that died of it leaves.
_OUT_OF_MEMORY: Final = (
    "memory",
    "unable to load full model on gpu",
    "resource limitations",
    "cudamalloc",
    "unable to allocate",
    "failed to allocate",
)


@dataclass(slots=True)
class Outcome:
    """How a load ended.

    Attributes:
        status: Ollama's; 0 where it did not answer.
        error: Ollama's text; "" for a success.
        failure: Why it did not answer.
        seconds: From sending it to the end, all attempts together.
        cause: Why the model had to be loaded again: options, evicted, restart, unknown; "" for a first load.
        without_num_gpu: The configured ``num_gpu`` did not fit, so it was left out.
        growth_refused: The growth did not fit and was undone.
    """

    status: int = 0
    error: str = ""
    failure: PilotlightError | None = None
    seconds: float = 0.0
    cause: str = ""
    without_num_gpu: bool = False
    growth_refused: bool = False
    options: dict[str, object] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return self.failure is None and self.status < 300 and not self.error

    @property
    def real(self) -> bool:
        """Ollama had to load, as far as the time tells."""
        return self.seconds > REAL_LOAD_S


@dataclass(slots=True, eq=False)
class Flight:
    """A load under way.

    Attributes:
        by_keeper: Nobody but the keeper wants it, so far.
        cold: The model was not there, as far as was known.
        grows: It is the growth that ``runner.undo`` would undo.
    """

    runner: Runner
    options: dict[str, object]
    keep_alive: object | None
    cause: str
    by_keeper: bool
    grows: bool
    cold: bool
    task: asyncio.Task[Outcome] = field(init=False)


class Loads:
    """Starts loads, shares them and owns their tasks.

    Args:
        ollama: Where to load.
        runners: Told of every load's beginning and end.
        timeout_s: The longest time that a load may take.
        observe: Looks at ``/api/ps`` and tells the runners; called after each load, before anyone who waits goes on.
        on_loaded: Called before that look with every load that succeeded and took room.
        on_done: Called with every load that ended.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        ollama: Ollama,
        runners: Runners,
        *,
        timeout_s: float,
        observe: Callable[[], Awaitable[None]],
        on_loaded: Callable[[Flight, float], None],
        on_done: Callable[[Flight, Outcome], None],
        clock: Callable[[], float],
    ) -> None:
        self._ollama = ollama
        self._runners = runners
        self._timeout_s = timeout_s
        self._observe = observe
        self._on_loaded = on_loaded
        self._on_done = on_done
        self._clock = clock
        self._flights: dict[str, Flight] = {}

    def __repr__(self) -> str:
        return f"<Loads {sorted(flight.runner.name for flight in self._flights.values())}>"

    def of(self, runner: Runner) -> Flight | None:
        """The load of this runner that is under way."""
        return self._flights.get(runner.weights)

    def may_displace(self, runner: Runner) -> bool:
        """Whether another model is being loaded, which may cost this one its place at any moment."""
        if not self._flights:
            return False
        return any(flight.cold and flight.runner is not runner for flight in self._flights.values())

    def flights(self) -> list[Flight]:
        return list(self._flights.values())

    def start(self, runner: Runner, *, keep_alive: object | None, cause: str = "", by_keeper: bool = False) -> Flight:
        """Begin a load, or join the one that is under way."""
        flight = self._flights.get(runner.weights)
        if flight is not None:
            flight.by_keeper = flight.by_keeper and by_keeper
            return flight
        if runner.kept is None:
            keep_alive = _lasting(keep_alive)
        grows = runner.undo is not None
        cold = not runner.present
        flight = Flight(runner, dict(runner.current or {}), keep_alive, cause, by_keeper, grows, cold)
        self._flights[runner.weights] = flight
        self._runners.on_load_started(runner)
        flight.task = asyncio.create_task(self._fly(flight), name=f"load {runner.name}")
        return flight

    async def wait(self, flight: Flight, timeout_s: float) -> Outcome | None:
        """Wait for a load without owning it; ``None`` where it takes longer than the caller can wait."""
        done, _ = await asyncio.wait({flight.task}, timeout=timeout_s)
        if not done:
            return None
        if flight.task.cancelled():
            raise ShuttingDown("the proxy is shutting down")
        return flight.task.result()

    async def aclose(self) -> None:
        """Give up all loads."""
        tasks = [flight.task for flight in self.flights()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _fly(self, flight: Flight) -> Outcome:
        outcome = Outcome(cause=flight.cause, options=flight.options)
        started = self._clock()
        try:
            await self._attempt(flight, outcome)
            outcome.seconds = self._clock() - started
            if outcome.ok and flight.by_keeper and flight.runner.state is State.RELEASED:
                self._runners.on_load_unwanted(flight.runner)
            elif outcome.ok:
                self._runners.on_loaded(flight.runner, outcome.options, flight.keep_alive, self._clock())
                if flight.cold or flight.grows or outcome.real:
                    self._on_loaded(flight, self._clock())
                await self._look()
            else:
                self._runners.on_load_failed(
                    flight.runner,
                    outcome.error or (outcome.failure.message if outcome.failure is not None else ""),
                    self._clock(),
                    random.random(),  # noqa: S311 - jitter
                    again_at_once=isinstance(outcome.failure, UpstreamBroken | UpstreamUnreachable),
                )
        finally:
            del self._flights[flight.runner.weights]
            self._runners.on_load_over(flight.runner)
        self._on_done(flight, outcome)
        return outcome

    async def _look(self) -> None:
        """See what the load led to. That it cannot be seen does not make the load a failure."""
        with contextlib.suppress(PilotlightError):
            await self._observe()

    async def _attempt(self, flight: Flight, outcome: Outcome) -> None:
        """The load and what may follow it: without ``num_gpu``, or with the set from before a growth."""
        runner = flight.runner
        was_in_vram = 0 < runner.size_bytes <= runner.vram_bytes
        if flight.grows and runner.in_flight:
            await asyncio.sleep(_LET_SENT_REQUESTS_ARRIVE_S)
        try:
            reply = await self._load(flight, outcome.options)
            if is_out_of_memory(reply) and not flight.grows and _has_num_gpu(outcome.options):
                outcome.options = {name: value for name, value in outcome.options.items() if name != "num_gpu"}
                outcome.without_num_gpu = True
                reply = await self._load(flight, outcome.options)
                if reply.ok:
                    runner.current = dict(outcome.options)
            if flight.grows and (reply.status >= 500 or (was_in_vram and await self._spills(runner))):
                self._runners.on_growth_refused(runner)
                outcome.growth_refused = True
                outcome.options = dict(runner.current or {})
                reply = await self._load(flight, outcome.options)
            if flight.grows:
                runner.undo = None
            outcome.status, outcome.error = reply.status, reply.error
        except PilotlightError as error:
            outcome.failure = error

    async def _load(self, flight: Flight, options: dict[str, object]) -> LoadReply:
        facts = flight.runner.facts
        return await self._ollama.load(
            flight.runner.name,
            options,
            flight.keep_alive,
            embedding_only=facts is not None and facts.embedding_only,
            timeout_s=self._timeout_s,
        )

    async def _spills(self, runner: Runner) -> bool:
        """Whether a part of the model is outside of VRAM now."""
        rows = [row for row in await self._ollama.ps() if self._runners.by_digest(row.digest) is runner]
        return any(row.vram_bytes < row.size_bytes for row in rows)


def is_out_of_memory(reply: LoadReply) -> bool:
    """Whether a load failed for want of memory, as far as Ollama's text tells."""
    text = reply.error.lower()
    return reply.status >= 500 and any(sign in text for sign in _OUT_OF_MEMORY)


def _has_num_gpu(options: dict[str, object]) -> bool:
    value = options.get("num_gpu")
    return isinstance(value, int) and value >= 0


def _lasting(keep_alive: object | None) -> object | None:
    """The ``keep_alive`` of a load that a request is to follow."""
    seconds = parse_keep_alive(keep_alive)
    return keep_alive if seconds is not None and seconds >= _SHORTEST_LOAD_KEEP_ALIVE_S else None
