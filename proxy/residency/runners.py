"""All runners, and how what is known about them changes.

:class:`Runners` is their one owner. Events go in (a load began, ended, failed; a request began, ended; an unload; a
``/v1`` call); everyone else reads. There is no I/O and no clock in here. What ``/api/ps`` means is ``observation``;
what to do about it is ``plan``.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from proxy.errors import ConfigError
from proxy.residency.runner import UNRANKED, Loss, Runner, State
from proxy.rewrite.options import neutral, runner_options
from proxy.wire.durations import parse_keep_alive
from proxy.wire.names import canonical

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from proxy.rewrite.facts import ModelFacts
    from proxy.settings import KeptModel, Settings

# Ollama's models are as many as it has stored; each change of one adds another.
_MOST_DIGESTS: Final = 1_000

# A model whose load fails for the first time after a success may have met a restart: again at once. Then slower.
_BACKOFF_S: Final = 5.0
_LONGEST_BACKOFF_S: Final = 300.0
# An unload and a call of the proxy's own that are this close may have overtaken each other.
_OVERTAKEN_S: Final = 2.0
# A runner that is gone this soon after its load, for no reason that is known, is being fought over.
_QUICK_LOSS_S: Final = 60.0


class Runners:
    """All runners, by weights.

    Args:
        settings: For the kept models and the defaults of the others.

    Attributes:
        contradictions: Kept names that turned out to be the same weights with different options. The more important
            one's options hold.
    """

    def __init__(self, settings: Settings) -> None:
        self._defaults = dict(settings.defaults.options)
        self._by_weights: dict[str, Runner] = {}
        self._weights: dict[str, str] = {}
        self.contradictions: list[ConfigError] = []
        self._start = State.ABSENT if settings.residency.warmup else State.RELEASED
        self._kept_names = _by_name(settings.models)
        for name in self._kept_names:
            self._hold_place(name)

    def __repr__(self) -> str:
        return f"<Runners {len(self._by_weights)} kept={len(self._kept_names)}>"

    def __iter__(self) -> Iterator[Runner]:
        return iter(self._by_weights.values())

    def kept(self) -> list[Runner]:
        """The kept ones, most important first."""
        return sorted((runner for runner in self if runner.kept is not None), key=lambda runner: runner.rank)

    def of(self, facts: ModelFacts) -> Runner:
        """The runner of a model, made known where it is new."""
        runner = self._by_weights.get(facts.weights)
        if runner is None or runner.facts is None or facts.name not in runner.names:
            return self._adopt(facts, runner)
        if facts.name == runner.facts.name and facts.digest != runner.facts.digest:
            self._on_made_anew(runner, facts)
        return runner

    def by_digest(self, digest: str) -> Runner | None:
        """The runner of a model that was met under this digest, even if its name means another model by now."""
        weights = self._weights.get(digest)
        return None if weights is None else self._by_weights.get(weights)

    def unresolved(self) -> list[str]:
        """Kept names that Ollama has not described yet, most important first."""
        return [name for runner in self.kept() if runner.facts is None for name in sorted(runner.names)]

    def on_missing(self, name: str, reason: str) -> None:
        """Ollama does not have a kept model; with no reason: it has it now."""
        runner = self._by_weights.get(f"name:{name}")
        if runner is not None and runner.state is not State.RELEASED:
            runner.state, runner.reason = (State.FAILED, reason) if reason else (State.ABSENT, "")

    def on_changed(self, names: Collection[str]) -> None:
        """These models are new or were made anew: what failed before may work now."""
        for runner in self:
            if not runner.names.isdisjoint(names):
                runner.failures = 0
                runner.retry_at = -math.inf

    def stranger(self, name: str, digest: str) -> Runner:
        """A runner for a row of ``/api/ps`` that cannot be matched to a model."""
        weights = f"unknown:{name}@{digest}"
        return self._by_weights.setdefault(weights, Runner(weights, names={name}))

    def drop_strangers(self) -> None:
        """Forget what could not be matched to a model and is gone."""
        for runner in [runner for runner in self if runner.weights.startswith("unknown:") and not runner.present]:
            self._by_weights.pop(runner.weights, None)

    # --- other settings ---

    def contradiction(self, models: Sequence[KeptModel]) -> ConfigError | None:
        """Two of these models that are known to be the same weights and have different options."""
        named = _by_name(models)
        for runner in self:
            here = sorted((named[name] for name in runner.names if name in named), key=lambda ranked: ranked[0])
            for rank, model in here[1:]:
                if dict(model.options) != dict(here[0][1].options):
                    return _contradiction(*here[0], rank, model)
        return None

    def keep(self, models: Sequence[KeptModel]) -> None:
        """From now on these are the kept models.

        What is loaded stays as it is: one that is kept no longer goes when its time is up, or when Ollama needs the
        room. One that is kept now and known already is matched to its runner as at the start. Where options changed,
        the model is loaded anew once nothing runs on it, or for the next request.
        """
        self._kept_names = _by_name(models)
        settled: set[str] = set()
        for runner in self.kept():
            here = sorted((self._kept_names[name][0], name) for name in runner.names if name in self._kept_names)
            if here and here[0][1] == runner.name:
                rank, model = self._kept_names[runner.name]
                _keep_on(runner, rank, model)
                settled.update(name for _, name in here)
            else:
                self._let_go(runner)
        for name in self._kept_names:
            if name not in settled:
                for runner in self:
                    runner.names.discard(name)
                self._hold_place(name)

    def _hold_place(self, name: str) -> None:
        """A kept model that Ollama has not described yet, or that has to be matched to its weights anew."""
        placeholder = Runner(f"name:{name}", names={name}, state=self._start)
        _keep(placeholder, *self._kept_names[name])
        self._by_weights[placeholder.weights] = placeholder

    def _let_go(self, runner: Runner) -> None:
        """It is a model like any other."""
        runner.kept, runner.rank = None, UNRANKED
        if runner.facts is None:
            self._by_weights.pop(runner.weights, None)
            return
        runner.configured = dict(self._defaults)
        runner.decided.clear()
        runner.reason, runner.loss, runner.unfit_beside, runner.to_unload = "", Loss.NONE, "", False
        if runner.state is not State.LOADING:
            runner.state = State.RESIDENT if runner.present else State.ABSENT
        if not runner.present and not runner.busy:
            # As for any other: the next request that loads it decides its options.
            runner.current, runner.undo, runner.growths, runner.shown_num_ctx = None, None, 0, None

    # --- events ---

    def on_tended(self, runner: Runner, now: float) -> None:
        """A call of the proxy's own for this model began or ended."""
        runner.tended_at = now

    def on_load_started(self, runner: Runner) -> None:
        runner.state = State.LOADING
        runner.confirmed = False

    def on_loaded(self, runner: Runner, options: dict[str, object], keep_alive: object | None, now: float) -> None:
        """Ollama says that it is loaded with these options."""
        runner.state = State.RESIDENT
        runner.reason = ""
        runner.to_unload = False
        runner.loss = Loss.NONE
        runner.failures = 0
        runner.retry_at = -math.inf
        runner.confirmed = options == runner.current
        runner.strayed_at = None
        runner.stray_told = False
        if not runner.present:
            runner.keep_alive_s = None
        runner.present = True
        runner.seen_at = now
        runner.loaded_at = now
        runner.shown_num_ctx = None
        runner.warmed_at = -math.inf
        if keep_alive is not None:
            runner.keep_alive_s = parse_keep_alive(keep_alive)
            runner.expires_at = now + (runner.keep_alive_s or 0.0)

    def on_load_failed(self, runner: Runner, reason: str, now: float, jitter: float, *, again_at_once: bool) -> None:
        """A load failed.

        Args:
            jitter: 0 to 1, so that many proxies do not knock in step.
            again_at_once: The connection was lost, which a restart explains; a second one in a row does not count.
        """
        runner.confirmed = False
        runner.failures += 1
        if again_at_once and runner.failures < 2:
            runner.state = State.LOST if runner.loss else State.ABSENT
            return
        runner.state = State.FAILED
        runner.reason = reason
        runner.retry_at = now + _backoff_s(runner.failures, jitter)

    def on_load_over(self, runner: Runner) -> None:
        """No load is under way any more, whether or not its end was told."""
        if runner.state is State.LOADING:
            runner.state = State.LOST if runner.loss else State.ABSENT

    def on_started(self, runner: Runner, now: float) -> None:
        runner.in_flight += 1
        runner.used_at = now

    def on_finished(self, runner: Runner, now: float) -> None:
        runner.in_flight = max(0, runner.in_flight - 1)
        runner.used_at = now
        if runner.keep_alive_s is not None:
            runner.expires_at = now + runner.keep_alive_s

    def on_unloaded(self, runner: Runner, now: float) -> None:
        """A client asked for it to be unloaded, and Ollama agreed."""
        runner.confirmed = False
        runner.state = State.RELEASED if runner.kept is not None else State.ABSENT
        runner.loss = Loss.NONE
        # A warm-up or a probe of ours may have reached Ollama after the unload, and loaded it again.
        runner.to_unload = runner.kept is not None and now - runner.tended_at < _OVERTAKEN_S

    def on_load_unwanted(self, runner: Runner) -> None:
        """The keeper's load ended well, but a client has asked for an unload meanwhile."""
        runner.present = True
        runner.to_unload = True

    def on_wanted(self, runner: Runner) -> None:
        """A request for it arrived, which ends a release."""
        if runner.state is State.RELEASED:
            runner.state = State.ABSENT
            runner.to_unload = False

    def on_v1(self, runner: Runner, facts: ModelFacts, now: float) -> None:
        """A call without options ran on it: Ollama reloaded it with the server's own unless they are the same."""
        if runner.current is not None and not neutral(runner.current, runner_options(facts.parameters)):
            runner.confirmed = False
            runner.strayed_at = now

    def on_growth(self, runner: Runner, target: dict[str, object]) -> None:
        """The current set is to grow; requests wait for the load from now on."""
        if runner.undo is None:
            runner.undo = dict(runner.current or {})
        runner.current = target
        runner.confirmed = False
        runner.growths += 1

    def on_options(self, runner: Runner, target: dict[str, object]) -> None:
        """A request decides the set: the first one of a model that is not loaded, or any where clients' options win."""
        if runner.current != target:
            runner.current = target
            runner.confirmed = False

    def on_growth_refused(self, runner: Runner) -> None:
        """The growth did not fit: back to the set before, and no further from now on."""
        if runner.undo is not None:
            refused = (runner.current or {}).get("num_ctx")
            if isinstance(refused, int):
                runner.refused_num_ctx = min(refused, runner.refused_num_ctx or refused)
            runner.current = runner.undo
            runner.undo = None

    def on_upstream_down(self) -> None:
        """Ollama does not answer: whatever was loaded has to be loaded again, or at least asked for."""
        for runner in self:
            runner.confirmed = False
            runner.present = False
            if runner.kept is not None and (runner.state is State.RESIDENT or runner.unfit_beside):
                runner.state, runner.reason, runner.loss = State.LOST, "", Loss.RESTART
            runner.unfit_beside = ""
            runner.volatile = False
            runner.to_unload = False
            runner.strayed_at = None
            runner.quick_losses = 0

    def _on_made_anew(self, runner: Runner, facts: ModelFacts) -> None:
        """The model was made again from the same weights, perhaps with other options in its Modelfile."""
        self._remember_digest(facts)
        runner.facts = facts
        runner.confirmed = False
        runner.undo, runner.growths, runner.refused_num_ctx = None, 0, None
        runner.current = None if runner.kept is None else {**runner_options(facts.parameters), **runner.configured}

    def _remember_digest(self, facts: ModelFacts) -> None:
        if facts.digest:
            if len(self._weights) >= _MOST_DIGESTS:
                self._weights.clear()
            self._weights[facts.digest] = facts.weights

    def _adopt(self, facts: ModelFacts, runner: Runner | None) -> Runner:
        """Match a name to weights for the first time, or again after it was made anew."""
        self._remember_digest(facts)
        if runner is None:
            runner = self._by_weights[facts.weights] = Runner(facts.weights)
            runner.configured = dict(self._defaults)
        if runner.facts is None:
            runner.facts = facts
        for other in list(self):
            if other is not runner and facts.name in other.names:
                self._release_name(other, facts.name, runner)
        runner.names.add(facts.name)
        if facts.name in self._kept_names:
            rank, model = self._kept_names[facts.name]
            self._note_contradiction(runner, rank, model)
            if runner.kept is None or rank < runner.rank:
                runner.facts = facts
                _keep(runner, rank, model)
                runner.current = {**runner_options(facts.parameters), **runner.configured}
                runner.confirmed = False
        return runner

    def _release_name(self, old: Runner, name: str, new: Runner) -> None:
        """A name has other weights than it had; or it was a placeholder, which hands its place on."""
        old.names.discard(name)
        if old.kept is not None and canonical(old.kept.name) == name:
            new.state = State.RELEASED if old.state is State.RELEASED else State.ABSENT
            old.kept, old.rank = None, UNRANKED
        if not old.names and not old.busy:
            self._by_weights.pop(old.weights, None)

    def _note_contradiction(self, runner: Runner, rank: int, model: KeptModel) -> None:
        if runner.kept is None or runner.kept is model or dict(runner.kept.options) == dict(model.options):
            return
        self.contradictions.append(_contradiction(runner.rank, runner.kept, rank, model))


def _by_name(models: Sequence[KeptModel]) -> dict[str, tuple[int, KeptModel]]:
    """Rank and settings of each kept model."""
    return {canonical(model.name): (rank, model) for rank, model in enumerate(models)}


def _contradiction(rank: int, model: KeptModel, other_rank: int, other: KeptModel) -> ConfigError:
    first, second = sorted([(rank, model.name), (other_rank, other.name)])
    return ConfigError(
        f"models.{second[0]}.options",
        f"{second[1]} and {first[1]} (models.{first[0]}) are the same weights, so they share one runner; "
        "give them the same options",
    )


def _keep_on(runner: Runner, rank: int, model: KeptModel) -> None:
    """It is kept as before, perhaps with other settings."""
    before, runner.kept, runner.rank = runner.kept, model, rank
    runner.decided.clear()
    if runner.unfit_beside:
        # Another list, or other options, may leave room for it: it gets another chance.
        runner.unfit_beside, runner.reason = "", ""
        if runner.state is State.FAILED:
            runner.state = State.LOST
    is_too_large = model.max_num_ctx is not None and (runner.num_ctx or 0) > model.max_num_ctx
    if before is not None and dict(before.options) == dict(model.options) and not is_too_large:
        return
    runner.configured = dict(model.options)
    parameters = runner_options(runner.facts.parameters) if runner.facts is not None else {}
    runner.current = {**parameters, **runner.configured}
    runner.confirmed = False
    runner.undo, runner.growths, runner.refused_num_ctx = None, 0, None
    runner.failures, runner.retry_at = 0, -math.inf
    if runner.state is State.RESIDENT:
        # Loaded with other options than it should be, as after a drift; so the keeper need not wait for a request.
        runner.state, runner.loss = State.LOST, Loss.DRIFTED


def _keep(runner: Runner, rank: int, model: KeptModel) -> None:
    runner.kept, runner.rank = model, rank
    runner.configured = dict(model.options)
    runner.current = dict(model.options)


def _backoff_s(failures: int, jitter: float) -> float:
    return min(_LONGEST_BACKOFF_S, _BACKOFF_S * 2.0 ** min(failures - 1, 10)) * (0.5 + 0.5 * jitter)


def quick_loss_delay_s(runner: Runner, now: float, free: int = 1) -> float:
    """How long to leave a model alone that is lost again and again soon after its load; 0 at first.

    Args:
        free: How many such losses in a row are made good at once.
    """
    runner.quick_losses = runner.quick_losses + 1 if now - runner.loaded_at < _QUICK_LOSS_S else 0
    return 0.0 if runner.quick_losses <= free else _backoff_s(runner.quick_losses - free, 1.0)
