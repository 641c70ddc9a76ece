"""Residency as the relay sees it: prepare a request, and tell what became of it."""

from __future__ import annotations

import operator
import time
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from proxy.errors import LoadFailed, UpstreamTimeout
from proxy.residency.checklist import Checklist
from proxy.residency.keeper import Keeper
from proxy.residency.loads import REAL_LOAD_S, Flight, Loads, Outcome
from proxy.residency.observation import Watch
from proxy.residency.prepared import ILL_TYPED, UNTOUCHED, Decided, Prepared
from proxy.residency.probing import Prober
from proxy.residency.runner import Runner, State
from proxy.residency.runners import Runners
from proxy.residency.warm import Warmed, Warmer
from proxy.rewrite.keepalive import decide
from proxy.rewrite.options import (
    Unified,
    asked_runner_options,
    grown_num_ctx,
    header_value,
    neutral,
    runner_options,
    unify,
)
from proxy.wire.durations import parse_keep_alive
from proxy.wire.names import canonical

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from proxy.observe.metrics import Metrics
    from proxy.residency.catalogue import Catalogue
    from proxy.residency.keeper import Places
    from proxy.rewrite.facts import ModelFacts
    from proxy.settings import KeptModel, Settings
    from proxy.upstream.ollama import Ollama

# A request that finds its set changed by others each time it has waited for a load is sent as it is.
_MOST_LOADS_WAITED_FOR: Final = 4
# Requests give up after load_timeout_s, but the load goes on; it is given up when even that was far too short.
_LOAD_OUTLIVES_WAITERS: Final = 3
# Of combinations of name and options per runner; a client that never repeats itself gains nothing and fills nothing.
_MOST_DECIDED: Final = 64
_NOTHING: Final[Mapping[str, object]] = MappingProxyType({})


class Residency:
    """Keeps models resident and requests from reloading them.

    Args:
        settings: Its ``models``, ``defaults``, ``rewrite`` and ``residency`` are read.
        ollama: For loads, looks and warm-ups.
        catalogue: What models are.
        metrics: Told what happens.
        clock: Monotonic seconds.
        wall_clock: Seconds since 1970, for the times that Ollama tells.
    """

    def __init__(
        self,
        settings: Settings,
        ollama: Ollama,
        catalogue: Catalogue,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._catalogue = catalogue
        self._clock = clock
        self._policy = settings.rewrite.client_options
        self._keep_alive_policy = settings.rewrite.client_keep_alive
        self._load_timeout_s = settings.residency.load_timeout_s
        self._runners = Runners(settings)
        self._watch = Watch()
        self._keeper = Keeper(
            settings,
            ollama,
            catalogue=catalogue,
            runners=self._runners,
            watch=self._watch,
            metrics=metrics,
            checklist=Checklist(clock),
            clock=clock,
            wall_clock=wall_clock,
        )
        self._loads = self._keeper.loads = Loads(
            ollama,
            self._runners,
            timeout_s=_LOAD_OUTLIVES_WAITERS * settings.residency.load_timeout_s,
            observe=self._keeper.look,
            on_loaded=self._on_loaded,
            on_done=self._keeper.on_load_ended,
            clock=clock,
        )
        self._warmer = self._keeper.warmer = Warmer(
            ollama, timeout_s=settings.residency.load_timeout_s, on_done=self._on_warmed, clock=clock
        )
        self._prober = self._keeper.prober = Prober(
            ollama, catalogue, enabled=settings.rewrite.generate_to_chat, on_done=self._on_probed
        )

    def __repr__(self) -> str:
        return f"<Residency {self._keeper!r} {self._loads!r}>"

    # --- the background ---

    async def run(self) -> None:
        """Keep models resident until cancelled; then give up loads and warm-ups.

        Raises:
            ConfigError: The settings turned out to be impossible once Ollama had described the models.
        """
        try:
            await self._keeper.run()
        finally:
            await self.aclose()

    async def step(self) -> None:
        """One turn of :meth:`run`: look, plan, begin what is due."""
        await self._keeper.step()

    async def idle(self) -> bool:
        """Wait for the loads, warmings and probes that are under way; whether there were none."""
        flights = self._loads.flights()
        was_busy = bool(flights) or self._warmer.is_busy or self._prober.is_busy
        for flight in flights:
            await self._loads.wait(flight, self._load_timeout_s)
        await self._warmer.join()
        await self._prober.join()
        return not was_busy

    async def aclose(self) -> None:
        """Cancel and await everything that was begun. May be called again."""
        await self._warmer.aclose()
        await self._prober.aclose()
        await self._loads.aclose()
        await self._keeper.aclose()
        await self._catalogue.aclose()

    @property
    def ready(self) -> bool:
        """Whether kept models have settled since the start, and Ollama answers now."""
        return self._keeper.is_ready

    def tell(self, places: Places) -> None:
        """Tell the scheduler from now on what is loaded, and what does not fit together."""
        self._keeper.places = places

    def keep(self, models: Sequence[KeptModel]) -> None:
        """Keep these models from now on; what runs goes on.

        Raises:
            ConfigError: Two of them are known to be the same weights with different options; nothing has changed then.
        """
        if contradiction := self._runners.contradiction(models):
            raise contradiction
        before = [runner.name for runner in self._runners.kept()]
        self._runners.keep(models)
        after = [canonical(model.name) for model in models]
        self._metrics.keep_models(after)
        for name in before:
            if name not in after:
                self._metrics.model_failed(name, "")
        self._keeper.on_other_models()

    def wake(self) -> None:
        """Look at Ollama now: something suggests that it went away or changed."""
        self._keeper.wake()

    def models(self) -> list[dict[str, Any]]:
        """All runners that are of interest, kept ones first, for ``/models``."""
        now = self._clock()
        others = [runner for runner in self._runners if runner.kept is None and (runner.present or runner.busy)]
        return [runner.described(now) for runner in [*self._runners.kept(), *others]]

    def states(self) -> dict[str, str]:
        """The state of each kept model, by its name."""
        return {runner.name: runner.state.value for runner in self._runners.kept()}

    # --- one request ---

    def prepare_now(
        self,
        facts: ModelFacts,
        options: Mapping[str, object] | None,
        *,
        keep_alive: object = None,
        v1: bool = False,
    ) -> Prepared | None:
        """Decide what a request is sent with, where its model is known to be loaded so.

        Args:
            facts: About its model.
            options: Its own; ``None`` where it has none.
            keep_alive: Its ``keep_alive`` as JSON has it; ``None`` where it has none.
            v1: It comes by a route that can carry neither options nor ``keep_alive``.

        Returns:
            ``None`` where a load has to be waited for (:meth:`prepare`).
        """
        if facts.remote or "image" in facts.capabilities:
            return UNTOUCHED
        runner = self._runners.of(facts)
        decided = self._decide(runner, facts, options or _NOTHING)
        if decided.unified.ill_typed or not (decided.is_for(keep_alive) or _is_taken(keep_alive)):
            # Ollama refuses the request, so nothing is loaded for it.
            return UNTOUCHED
        if runner.state is State.RELEASED:
            self._runners.on_wanted(runner)
            decided = self._decide(runner, facts, options or _NOTHING)
        unified, kept = decided.unified, runner.kept
        if v1 and not neutral(unified.target, runner_options(facts.parameters)):
            # The call will load the model its own way, whatever we do first.
            return Prepared(kept=kept is not None)
        self._settle(runner, unified)
        if not self._is_known(runner) and not runner.volatile:
            return None
        if v1:
            return Prepared(kept=kept is not None)
        return self._prepared(runner, facts, decided, keep_alive)

    async def prepare(
        self,
        facts: ModelFacts,
        options: Mapping[str, object] | None,
        *,
        keep_alive: object = None,
        v1: bool = False,
    ) -> Prepared:
        """As :meth:`prepare_now`, and see that the model is loaded so.

        Raises:
            LoadFailed: Ollama could not load the model (5xx); its own text. On a 4xx the request itself is to be sent.
            UpstreamTimeout: The load takes longer than ``residency.load_timeout_s``; it goes on.
            UpstreamUnreachable, UpstreamBroken: As the load met them.
        """
        prepared = self.prepare_now(facts, options, keep_alive=keep_alive, v1=v1)
        if prepared is not None:
            return prepared
        runner = self._runners.of(facts)
        decided, waited_s, cold = await self._see_loaded(runner, facts, options or _NOTHING, keep_alive)
        prepared = Prepared(kept=runner.kept is not None)
        if not v1:
            prepared = self._prepared(runner, facts, decided, keep_alive)
        return prepared._replace(waited_s=waited_s, cold=cold)

    def _prepared(self, runner: Runner, facts: ModelFacts, decided: Decided, client: object) -> Prepared:
        """What the request is sent with, now that its model is loaded."""
        kept, unified = runner.kept, decided.unified
        if facts.same_render is None and not runner.volatile:
            self._prober.start(runner, facts, self._decide(runner, facts, {}).unified.set)
        if decided.prepared is not None and decided.prepared_by is kept and decided.is_for(client):
            return decided.prepared
        value = self._keep_alive(runner, client)
        if kept is None:
            if value is not None or client is not None:
                runner.keep_alive_s = parse_keep_alive(client if value is None else value)
            return Prepared(unified.set, unified.remove, value, decided.told, avoided=unified.avoided)
        decided.client_keep_alive, decided.prepared_by = client, kept
        decided.prepared = Prepared(
            unified.set,
            unified.remove,
            value,
            decided.told,
            long_prompts=kept.long_prompts,
            kept=True,
            avoided=unified.avoided,
        )
        return decided.prepared

    def suits_v1(self, facts: ModelFacts) -> bool:
        """Whether a call that can carry neither options nor ``keep_alive`` leaves the model as it is to be.

        Ollama loads it anew for such a call where its set is not the server's own, and without the configured options
        where it has gone meanwhile. A ``keep_alive`` needs no care: a call without one leaves a loaded model's as it is
        (v0.24.0, server/sched.go, ``useLoadedRunner``), and one that is not loaded is loaded by the proxy first.
        """
        if facts.remote or "image" in facts.capabilities:
            return True
        runner = self._runners.of(facts)
        if runner.configured or self.long_prompts(facts) != "cut":
            return False
        return neutral(self._decide(runner, facts, {}).unified.target, runner_options(facts.parameters))

    def long_prompts(self, facts: ModelFacts) -> str:
        """What is done with a prompt of this model that is longer than the context."""
        kept = self._runners.of(facts).kept
        return "cut" if kept is None else kept.long_prompts

    def is_kept(self, facts: ModelFacts) -> bool:
        return self._runners.of(facts).kept is not None

    def queues(self, facts: ModelFacts, change: int) -> None:
        """A request for this model began (1) or ceased (-1) to wait for its turn."""
        self._runners.of(facts).queued += change

    def started(self, facts: ModelFacts) -> None:
        """A prepared request is being sent. To be followed by :meth:`finished`, whatever happens."""
        runner = self._runners.of(facts)
        self._runners.on_started(runner, self._clock())
        self._warmer.give_way(runner)

    def finished(self, facts: ModelFacts, *, load_s: float | None = None, ok: bool = True) -> None:
        """A request that was sent has ended.

        Args:
            load_s: Ollama's ``load_duration``; a long one means that the model was loaded again under our eyes.
            ok: It ended as it should.
        """
        runner = self._runners.of(facts)
        self._runners.on_finished(runner, self._clock())
        if ok and load_s is not None and load_s > REAL_LOAD_S and not runner.volatile:
            cause = "options" if runner.strayed_at is not None or self._policy == "respect" else "unknown"
            self._metrics.reload(facts.name, cause)
        if not ok:
            self._keeper.wake()

    def unloaded(self, facts: ModelFacts) -> None:
        """A client's unload was honoured; a kept model rests until the next request for it."""
        runner = self._runners.of(facts)
        given_up = [self._warmer.give_way(runner), self._prober.give_way(runner)]
        if any(given_up):
            self._on_tended(runner)
        self._runners.on_unloaded(runner, self._clock())
        self._keeper.wake()

    def v1_called(self, facts: ModelFacts) -> None:
        """A call by a route without options has ended, and may have changed the runner's."""
        self._runners.on_v1(self._runners.of(facts), facts, self._clock())

    async def grow_for_prompt(self, facts: ModelFacts, prompt_bytes: int) -> bool:
        """Make room for a prompt that was too long.

        Returns:
            Whether the context is larger now, so that preparing and sending the request again makes sense.

        Raises:
            LoadFailed, UpstreamTimeout, UpstreamUnreachable, UpstreamBroken: As :meth:`prepare`.
        """
        runner = self._runners.of(facts)
        have = runner.num_ctx
        if have is None or self._policy != "merge":
            return False
        want = grown_num_ctx(have, prompt_bytes, runner.max_num_ctx)
        if want <= have or (runner.refused_num_ctx is not None and want >= runner.refused_num_ctx):
            return False
        self._runners.on_growth(runner, {**(runner.current or {}), "num_ctx": want})
        for _ in range(_MOST_LOADS_WAITED_FOR):
            outcome, _ = await self._await_load(runner, None)
            if not outcome.ok or outcome.options == runner.current:
                break
        return (runner.num_ctx or 0) > have

    # --- inside ---

    def _decide(self, runner: Runner, facts: ModelFacts, options: Mapping[str, object]) -> Decided:
        basis = (facts, runner.current, runner.shown_num_ctx, runner.refused_num_ctx, runner.growths)
        # Applications ask for the same options each time, and then nothing but the runner decides.
        last = runner.last_decided
        if last is not None and last[0] is options and all(map(operator.is_, last[1].basis, basis)):
            return last[1]
        wanted = asked_runner_options(options)
        if wanted is None:
            return ILL_TYPED
        asked = (facts.name, *wanted.items())
        decided = runner.decided.get(asked)
        if decided is None or not all(map(operator.is_, decided.basis, basis)):
            if len(runner.decided) >= _MOST_DECIDED:
                runner.decided.clear()
            unified = self._unify(runner, facts, options)
            decided = runner.decided[asked] = Decided(basis, unified, header_value(unified))
        runner.last_decided = (options, decided)
        return decided

    def _unify(self, runner: Runner, facts: ModelFacts, options: Mapping[str, object]) -> Unified:
        return unify(
            options,
            runner.configured,
            runner.current,
            self._policy,
            runner.max_num_ctx,
            runner.refused_num_ctx,
            parameters=runner_options(facts.parameters) if facts.parameters else None,
            shown_num_ctx=runner.shown_num_ctx,
            # The second growth and all after it double at least.
            grow_to_at_least=2 * (runner.num_ctx or 0) if runner.growths else 0,
        )

    def _is_known(self, runner: Runner) -> bool:
        """Whether a request is certain to find the model loaded; one on which a request runs cannot be evicted."""
        return runner.is_known(self._clock()) and (runner.in_flight > 0 or not self._loads.may_displace(runner))

    def _settle(self, runner: Runner, unified: Unified) -> None:
        """Make the request's set the runner's."""
        if unified.grows:
            self._runners.on_growth(runner, unified.target)
        elif runner.current != unified.target:
            self._runners.on_options(runner, unified.target)

    def _keep_alive(self, runner: Runner, client: object | None) -> object | None:
        kept = runner.kept.keep_alive if runner.kept is not None else None
        expires_in_s = runner.expires_at - self._clock() if runner.confirmed else None
        return decide(client, kept, self._settings.defaults.keep_alive, self._keep_alive_policy, expires_in_s)

    async def _see_loaded(
        self, runner: Runner, facts: ModelFacts, options: Mapping[str, object], client: object | None
    ) -> tuple[Decided, float, bool]:
        """Wait until the model is loaded with the set that this request and all others carry.

        Others may change that set while this one waits, which is why it is decided again after each load.

        Returns:
            What the request's options come to now, the seconds waited, and whether a load was a real one.
        """
        waited_s, cold = 0.0, False
        for _ in range(_MOST_LOADS_WAITED_FOR):
            outcome, seconds = await self._await_load(runner, client)
            waited_s += seconds
            cold = cold or outcome.real
            decided = self._decide(runner, facts, options)
            unified = decided.unified
            # A 4xx is answered by the request itself.
            if not outcome.ok or (outcome.options == runner.current == unified.target):
                break
            self._settle(runner, unified)
        return decided, waited_s, cold

    async def _await_load(self, runner: Runner, client: object | None) -> tuple[Outcome, float]:
        """Start or join the load of a runner, and wait for it.

        Returns:
            How it ended, where that was no failure that its waiters are told, and how long this took.
        """
        if runner.kept is not None:
            keep_alive: object | None = runner.kept.keep_alive
        else:
            decided = self._keep_alive(runner, client)
            keep_alive = client if decided is None else decided
        is_change = runner.present and (runner.undo is not None or runner.strayed_at is not None)
        cause = "options" if is_change else ""
        started = self._clock()
        self._warmer.give_way(runner)
        runner.waiting += 1
        try:
            flight = self._loads.start(runner, keep_alive=keep_alive, cause=cause)
            outcome = await self._loads.wait(flight, self._load_timeout_s)
        finally:
            runner.waiting -= 1
            runner.used_at = self._clock()
        if outcome is None:
            raise UpstreamTimeout(f"loading {runner.name} takes longer than {self._load_timeout_s:g} s; it goes on")
        if outcome.failure is not None:
            raise type(outcome.failure)(outcome.failure.message, retry_after_s=outcome.failure.retry_after_s)
        if outcome.status >= 500:
            raise LoadFailed(outcome.error, status=outcome.status)
        return outcome, self._clock() - started

    def _on_loaded(self, flight: Flight, now: float) -> None:
        self._watch.on_loaded(flight.runner, now, by_keeper=flight.by_keeper)

    def _on_warmed(self, runner: Runner, warmed: Warmed) -> None:
        self._on_tended(runner)
        self._keeper.on_warmed(runner, warmed)

    def _on_probed(self, runner: Runner) -> None:
        self._on_tended(runner)
        self._keeper.wake()

    def _on_tended(self, runner: Runner) -> None:
        self._runners.on_tended(runner, self._clock())


def _is_taken(keep_alive: object) -> bool:
    try:
        parse_keep_alive(keep_alive)
    except ValueError:
        return False
    return True
