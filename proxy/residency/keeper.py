"""The keeper: looks at Ollama, plans, acts, again and again.

    step:  observed = /api/ps  ->  changes (told)  ->  plan (pure)  ->  for each action: begin it

A step never waits for a load: that runs in ``loads`` and wakes the keeper when it is done. What is told, in the log and
in metrics, is told here and in ``news``.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
from typing import TYPE_CHECKING, Any, Final, Protocol

import structlog

from proxy.errors import PilotlightError, UpstreamBroken, UpstreamTimeout, UpstreamUnreachable
from proxy.residency.news import News
from proxy.residency.plan import Action, Limits, Load, Unload, plan
from proxy.residency.rivals import MOST_PATIENCE_S, Rivals
from proxy.residency.runner import SETTLED, Runner, State
from proxy.wire.names import canonical

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.observe.metrics import Metrics
    from proxy.residency.catalogue import Catalogue
    from proxy.residency.checklist import Checklist
    from proxy.residency.loads import Flight, Loads, Outcome
    from proxy.residency.observation import Watch
    from proxy.residency.probing import Prober
    from proxy.residency.runners import Runners
    from proxy.residency.warm import Warmed, Warmer
    from proxy.settings import Settings
    from proxy.upstream.ollama import Ollama, RunningModel

_log: Any = structlog.get_logger("pilotlight.residency")

# While Ollama is away, so that its return is noticed soon: a restart takes a second or two.
_POLL_WHEN_DOWN_S: Final = 1.0
# /api/tags reads every manifest; another digest there is noticed this late at most.
_TAGS_EVERY_S: Final = 30.0


class Places(Protocol):
    """Who decides which request is sent next, and so wants to know what is loaded."""

    def on_resident(self, weights: frozenset[str]) -> None: ...

    def on_eviction(self, lost: str, by: str) -> None: ...

    def on_fit(self, one: str, other: str) -> None: ...

    def on_restart(self) -> None: ...


class Keeper:
    """Keeps the kept models resident.

    Its collaborators are built by ``service``, which also tells it of every load and warming that ended.
    """

    def __init__(
        self,
        settings: Settings,
        ollama: Ollama,
        *,
        catalogue: Catalogue,
        runners: Runners,
        watch: Watch,
        metrics: Metrics,
        checklist: Checklist,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        self._settings = settings.residency
        self._limits = Limits(
            settings.residency.check_every_s, settings.residency.return_after_s, settings.residency.warmup
        )
        self._ollama = ollama
        self._catalogue = catalogue
        self._runners = runners
        self._watch = watch
        self._metrics = metrics
        self._checklist = checklist
        self._news = News(metrics, checklist)
        self._clock = clock
        self._wall_clock = wall_clock
        self._looking = asyncio.Lock()
        self._wake = asyncio.Event()
        self._pulls: dict[str, asyncio.Task[None]] = {}
        self._tags_at = -_TAGS_EVERY_S
        self._stored: frozenset[str] = frozenset()
        self._listed: frozenset[str] = frozenset()
        self._is_up = False
        self._was_up = False
        self._was_ready = False
        self._is_changed = False
        self._told_at = -math.inf
        self._rivals = Rivals(min(MOST_PATIENCE_S, settings.scheduler.ageing_s))
        self.places: Places | None = None
        self.loads: Loads
        self.warmer: Warmer
        self.prober: Prober

    def __repr__(self) -> str:
        return f"<Keeper {'up' if self._is_up else 'down'} {[runner.state.value for runner in self._runners.kept()]}>"

    @property
    def is_ready(self) -> bool:
        """Whether requests are as fast as they can be; once that was so, whether Ollama answers."""
        return self._is_up and self._was_ready

    def wake(self) -> None:
        """Take the next step now."""
        self._wake.set()

    def on_other_models(self) -> None:
        """The kept models are others than at the start: what is wrong with them ends the program no more."""
        self._is_changed = True
        self.wake()

    async def run(self) -> None:
        """Keep going until cancelled.

        Raises:
            ConfigError: Kept models turned out to contradict each other before the proxy was ever ready.
        """
        while True:
            await self.step()
            pause_s = self._settings.check_every_s
            if not self._is_up:
                pause_s = min(pause_s, _POLL_WHEN_DOWN_S) * random.uniform(0.8, 1.0)  # noqa: S311 - jitter
            elif self._rivals.is_missing:
                pause_s = min(pause_s, self._rivals.patience_s)
            # Not wait_for: before Python 3.12 it loses a cancellation that meets the end of what it waits for.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._wake.wait()
            self._wake.clear()

    async def step(self) -> None:
        """Look, plan and begin what is due. Waits for no load."""
        try:
            if not self._is_up:
                await self._on_up()
            await self.look()
            await self._refresh_tags()
            await self._resolve()
        except (UpstreamUnreachable, UpstreamTimeout, UpstreamBroken) as error:
            self._on_down(error)
            return
        if self._runners.contradictions:
            contradiction = self._runners.contradictions.pop(0)
            if not self._was_ready and not self._is_changed:
                raise contradiction
            _log.error("setting cannot hold", field=contradiction.field, reason=contradiction.message)
        taking_room = [flight for flight in self.loads.flights() if flight.cold or flight.grows]
        for action in plan(
            list(self._runners),
            self._clock(),
            self._limits,
            conflict=self._watch.conflict,
            # A probe that is overtaken by the eviction of its model would load that again.
            is_loading=self.prober.is_busy or any(flight.by_keeper for flight in taking_room),
            is_making_room=bool(taking_room),
            is_warming=self.warmer.is_busy,
        ):
            await self._act(action)
        self._note_ready()

    async def look(self) -> None:
        """Read ``/api/ps`` and take in what it says.

        Raises:
            UpstreamUnreachable, UpstreamTimeout, UpstreamBroken: Ollama does not answer.
        """
        async with self._looking:
            asked_at = self._clock()
            rows = await self._ollama.ps()
            matched = [(await self._match(row), row) for row in rows]
            self._listed = frozenset(runner.weights for runner, _ in matched)
            changes = self._watch.look(
                list(self._runners),
                matched,
                self._clock(),
                self._wall_clock(),
                asked_at=asked_at,
                loading=[(flight.runner, flight.by_keeper) for flight in self.loads.flights()],
            )
        self._runners.drop_strangers()
        self._metrics.running([(row.name, row.size_bytes, row.vram_bytes, row.expires_unix) for row in rows])
        self._news.changes(changes)
        if self.places is not None:
            self._tell_places(self.places, asked_at)

    def _tell_places(self, places: Places, asked_at: float) -> None:
        flights = self.loads.flights()
        since, self._told_at = self._told_at, asked_at
        news = self._rivals.look(
            self._listed,
            used=frozenset(runner.weights for runner in self._runners if runner.busy and not runner.volatile),
            loaded=frozenset(runner.weights for runner in self._runners if since <= runner.loaded_at < asked_at),
            loading=[flight.runner.weights for flight in flights],
            wanted=frozenset(flight.runner.weights for flight in flights if flight.cold and not flight.by_keeper),
            judged=self._watch.conflicts,
            now=self._clock(),
        )
        for lost, by in news.evictions:
            places.on_eviction(lost, by)
        for pair in news.fits:
            places.on_fit(*pair)
        places.on_resident(self._listed)

    def on_load_ended(self, flight: Flight, outcome: Outcome) -> None:
        """A load ended; Ollama has been looked at since."""
        self._news.load_ended(flight, outcome)
        runner = flight.runner
        self._runners.on_tended(runner, self._clock())
        if outcome.ok:
            runner.volatile = runner.kept is None and runner.weights not in self._listed
            if runner.facts is not None and runner.confirmed and not runner.volatile:
                facts = self._catalogue.cached(runner.facts.name) or runner.facts
                self.prober.start(runner, facts, runner.current or {})
        elif isinstance(outcome.failure, UpstreamUnreachable):
            self._on_down(outcome.failure)
        self._note_ready()
        self.wake()

    def on_warmed(self, runner: Runner, warmed: Warmed) -> None:
        self._news.warmed(runner, warmed)
        self.wake()

    async def aclose(self) -> None:
        for task in list(self._pulls.values()):
            task.cancel()
        await asyncio.gather(*self._pulls.values(), return_exceptions=True)

    # --- Ollama comes and goes ---

    async def _on_up(self) -> None:
        started = self._clock()
        version = await self._ollama.version()
        reached = self._clock()
        self._catalogue.on_version(version)
        await self._ollama.ps()
        self._is_up = True
        self._tags_at = -_TAGS_EVERY_S
        self._metrics.upstream_up(True)
        if self._was_up:
            _log.info("Ollama is back", version=version)
        self._was_up = True
        self._checklist.tell("upstream reached", reached - started, version=version)
        self._checklist.tell("connection warmed", self._clock() - reached)

    def _on_down(self, error: PilotlightError) -> None:
        kinds = {UpstreamUnreachable: "connect", UpstreamTimeout: "timeout", UpstreamBroken: "reset"}
        self._metrics.upstream_error(kinds.get(type(error), "protocol"))
        if self._is_up or not self._was_up:
            _log.warning("Ollama does not answer", reason=error.message)
        self._was_up = True
        self._is_up = False
        self._metrics.upstream_up(False)
        self._runners.on_upstream_down()
        self._watch.on_upstream_down()
        self._rivals.forget()
        if self.places is not None:
            self.places.on_restart()

    def _note_ready(self) -> None:
        if self._was_ready or not self._is_up or any(runner.state not in SETTLED for runner in self._runners.kept()):
            return
        self._was_ready = True
        self._checklist.tell("ready")

    # --- which models there are ---

    async def _match(self, row: RunningModel) -> Runner:
        """The runner that a row of ``/api/ps`` is about. The row has the name that loaded it, any of its names."""
        runner = self._runners.by_digest(row.digest)
        if runner is not None:
            return runner
        facts = await self._catalogue.facts(row.name)
        if facts is not None and facts.digest != row.digest and facts.digest and row.digest:
            # Either we remember an old model, or an old one that we never met is still loaded under this name.
            self._catalogue.forget(row.name)
            facts = await self._catalogue.facts(row.name)
        if facts is None or (facts.digest != row.digest and facts.digest and row.digest):
            return self._runners.stranger(canonical(row.name), row.digest)
        return self._runners.of(facts)

    async def _refresh_tags(self) -> None:
        now = self._clock()
        if now - self._tags_at < _TAGS_EVERY_S and not self._runners.unresolved():
            return
        tags = await self._ollama.tags()
        self._tags_at = now
        stored = frozenset(canonical(tag.name) for tag in tags)
        changed = {*self._catalogue.on_tags(tags), *(stored - self._stored)}
        self._runners.on_changed(changed)
        self._metrics.know_models(stored)
        if gone := self._stored - stored:
            self._metrics.forget_models(gone)
        self._stored = stored

    async def _resolve(self) -> None:
        """Learn what the kept names are; pull what is missing, where that is wanted."""
        for name in self._runners.unresolved():
            started = self._clock()
            if name in self._stored:
                facts = await self._catalogue.facts(name)
                if facts is not None:
                    self._runners.of(facts)
                    self._checklist.tell("model present", self._clock() - started, model=name)
            elif self._settings.pull_missing:
                if name not in self._pulls:
                    self._pulls[name] = asyncio.create_task(self._pull(name), name=f"pull {name}")
            else:
                self._runners.on_missing(name, f"Ollama does not have it; ollama pull {name} gets it")
                self._news.missing(name)

    async def _pull(self, name: str) -> None:
        started = self._clock()
        told = -1
        try:
            async for frame in self._ollama.pull(name):
                total, done = frame.get("total"), frame.get("completed")
                if isinstance(total, int) and isinstance(done, int) and total > 0:
                    tenth = done * 10 // total
                    if tenth != told:
                        told = tenth
                        _log.info("pulling", model=name, percent=tenth * 10, status=frame.get("status"))
            self._catalogue.forget(name)
            self._tags_at = -_TAGS_EVERY_S
            _log.info("pulled", model=name, seconds=round(self._clock() - started, 1))
            self._runners.on_missing(name, "")
        except PilotlightError as error:
            self._runners.on_missing(name, error.message)
            self._news.missing(name)
            # The next try is not before the next look that finds it missing, and those are this far apart at least.
            await asyncio.sleep(_TAGS_EVERY_S)
        finally:
            self._pulls.pop(name, None)
        self.wake()

    # --- acting ---

    async def _act(self, action: Action) -> None:
        runner = action.runner
        if isinstance(action, Load):
            keep_alive = runner.kept.keep_alive if runner.kept is not None else None
            self.loads.start(runner, keep_alive=keep_alive, cause=action.cause, by_keeper=True)
        elif isinstance(action, Unload):
            runner.to_unload = False
            with contextlib.suppress(PilotlightError):
                await self._ollama.unload(runner.name)
            self.wake()
        elif runner.state is State.RESIDENT:
            self.warmer.start(runner)
