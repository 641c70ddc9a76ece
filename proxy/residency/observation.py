"""What an answer of ``/api/ps`` means: who is there, who is gone, and why.

Ollama does not say why a model is gone, so it is worked out from what else happened. In order:

1. nothing that was there is left: **restart**, as when the server did not answer for a while;
2. its time was up: **expired**;
3. the keeper loaded another kept model since it was last seen: **evicted**, and if that happens twice within ten
   minutes the kept models do not fit beside each other: the least important one of them has lost the *war*;
4. another model was loaded since, for a request or by someone else: **displaced** by it;
5. none of these: **evicted**, by hand or by a crash.

A model that is there with another context length than after our own load has **drifted**.

:class:`Watch` owns the memory that this needs. It has no I/O and no clock, and decides nothing: ``plan`` does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from proxy.residency.runner import Loss, Runner, State
from proxy.residency.runners import quick_loss_delay_s

if TYPE_CHECKING:
    from collections.abc import Iterable

    from proxy.upstream.ollama import RunningModel

# Two evictions of kept models by loads of kept models within this time are a war. The requirement's minute is for the
# loss after the load; large models take minutes to load, so the second may be that much later.
_WAR_WINDOW_S: Final = 600.0
# So many restarts in quick succession are made good at once. A server that takes every load and never shows one would
# otherwise be sent loads without a pause.
_FREE_RESTARTS: Final = 5
# A keep_alive of milliseconds must not become a load every few milliseconds.
_SHORTEST_LIFE_S: Final = 1.0
# Expiry as /api/ps tells it is the wall clock of another process, and unloading takes a moment.
_EXPIRY_SLACK_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Lost:
    """A kept model is gone. ``by`` names the model that took its place, where one did."""

    runner: Runner
    cause: Loss
    by: str = ""


@dataclass(frozen=True, slots=True)
class Drifted:
    """A kept model runs with another context length than it was loaded with."""

    runner: Runner
    shown: int
    expected: int


@dataclass(frozen=True, slots=True)
class WarLost:
    """Two kept models do not fit beside each other; the less important one gives way."""

    loser: Runner
    winner: Runner


Change = Lost | Drifted | WarLost


@dataclass(frozen=True, slots=True)
class _LoadSeen:
    at: float
    runner: Runner
    by_keeper: bool


class Watch:
    """Reads one ``/api/ps`` after the other."""

    def __init__(self) -> None:
        self._loads: list[_LoadSeen] = []
        self._evictions: list[tuple[float, Runner, Runner]] = []
        self._conflicts: set[frozenset[str]] = set()

    def __repr__(self) -> str:
        return f"<Watch loads={len(self._loads)} evictions={len(self._evictions)} conflicts={len(self._conflicts)}>"

    def conflict(self, one: Runner, other: Runner) -> bool:
        """Whether one of the two has been seen to cost the other its place, and they were not seen together since."""
        return frozenset((one.weights, other.weights)) in self._conflicts

    @property
    def conflicts(self) -> frozenset[frozenset[str]]:
        """Pairs of weights of which :meth:`conflict` is true."""
        return frozenset(self._conflicts)

    def on_loaded(self, runner: Runner, now: float, *, by_keeper: bool) -> None:
        """A load of ours succeeded, and Ollama had to make room for it."""
        self._loads.append(_LoadSeen(now, runner, by_keeper))

    def on_upstream_down(self) -> None:
        """What was seen to collide need not do so on a server that was started anew."""
        self._loads.clear()
        self._evictions.clear()
        self._conflicts.clear()

    def look(
        self,
        runners: Iterable[Runner],
        rows: Iterable[tuple[Runner, RunningModel]],
        now: float,
        wall_now: float,
        *,
        asked_at: float = math.inf,
        loading: Iterable[tuple[Runner, bool]] = (),
    ) -> list[Change]:
        """Take in what ``/api/ps`` says.

        Args:
            runners: All that are known.
            rows: What is listed, each with its runner.
            now: Monotonic seconds.
            wall_now: Seconds since 1970, for the times in the rows.
            asked_at: When the question was sent; what was loaded since need not be in the answer.
            loading: Loads under way, each with whether the keeper alone wants it.

        Returns:
            What changed for kept models, in the order in which it is to be told.
        """
        busy_loading = {runner.weights: by_keeper for runner, by_keeper in loading}
        seen: dict[str, tuple[Runner, RunningModel]] = {}
        for runner, row in rows:
            # Two rows of one runner: one of them is being unloaded. The later one expires sooner, so the first counts.
            seen.setdefault(runner.weights, (runner, row))
        gone = []
        for runner in runners:
            if not runner.present or runner.loaded_at > asked_at or runner.weights in seen:
                continue
            if runner.weights in busy_loading:
                continue
            if runner.busy:
                # It is being loaded again for a request of its own, or will be. Judged when that is over.
                runner.confirmed = False
            else:
                gone.append(runner)
        came = [runner for runner, _ in seen.values() if not runner.present and runner.weights not in busy_loading]
        restarted = (
            any(runner.expires_at > now for runner in gone)
            and not seen
            and not busy_loading
            and not any(runner.busy for runner in runners)
        )
        changes: list[Change] = []
        if restarted:
            self.on_upstream_down()
        for runner in gone:
            changes += self._on_gone(runner, came, busy_loading, runners, now, restarted=restarted)
        for runner, row in seen.values():
            changes += self._on_seen(runner, row, now, wall_now, is_loading=runner.weights in busy_loading)
        self._forget_fitting([runner for runner, _ in seen.values() if runner.weights not in busy_loading])
        self._loads = [load for load in self._loads if now - load.at < _WAR_WINDOW_S]
        return changes

    def _on_seen(
        self, runner: Runner, row: RunningModel, now: float, wall_now: float, *, is_loading: bool
    ) -> list[Change]:
        expires_at = now + (row.expires_unix - wall_now) if row.expires_unix is not None else runner.expires_at
        if runner.present and runner.kept is None and expires_at > runner.expires_at + _EXPIRY_SLACK_S:
            # Somebody used it, perhaps without us.
            runner.used_at = now
        if runner.state is State.RELEASED and not runner.present and runner.loaded_at > -math.inf:
            # Asked for again, without us.
            runner.state = State.ABSENT
        runner.present = True
        runner.seen_at = now
        if expires_at > now:
            runner.expires_at = expires_at
        elif not runner.busy:
            # Its time is set to 0 when it has to make room (v0.24.0, server/sched.go): it is about to go, and not
            # because of its time.
            runner.confirmed = False
        runner.size_bytes, runner.vram_bytes = row.size_bytes, row.vram_bytes
        if not runner.busy:
            runner.volatile = False
        if runner.kept is None and not is_loading:
            runner.state = State.RESIDENT
        if is_loading and not runner.confirmed:
            return []
        if runner.shown_num_ctx is None:
            if runner.confirmed:
                runner.shown_num_ctx = row.context_length or None
        elif row.context_length and row.context_length != runner.shown_num_ctx:
            return self._on_drift(runner, row.context_length, now)
        return []

    def _on_drift(self, runner: Runner, shown: int, now: float) -> list[Change]:
        runner.confirmed = False
        runner.strayed_at = runner.strayed_at if runner.strayed_at is not None else now
        if runner.state is State.RESIDENT:
            runner.state, runner.loss = State.LOST, Loss.DRIFTED
        if runner.stray_told or runner.kept is None:
            return []
        runner.stray_told = True
        return [Drifted(runner, shown, runner.shown_num_ctx or 0)]

    def _on_gone(
        self,
        runner: Runner,
        came: list[Runner],
        loading: dict[str, bool],
        runners: Iterable[Runner],
        now: float,
        *,
        restarted: bool,
    ) -> list[Change]:
        culprit = None if restarted else self._culprit(runner, came, loading, runners)
        expired = runner.expires_at <= now + _EXPIRY_SLACK_S
        runner.present = False
        runner.confirmed = False
        runner.to_unload = False
        runner.strayed_at = None
        runner.size_bytes = runner.vram_bytes = 0
        if runner.kept is None:
            runner.state = State.ABSENT
            if not runner.busy:
                # The next request that loads it decides its options anew.
                runner.current, runner.undo, runner.growths, runner.shown_num_ctx = None, None, 0, None
            if culprit is not None and not expired:
                self._conflicts.add(frozenset((runner.weights, culprit.runner.weights)))
            return []
        if runner.state is State.RELEASED:
            return []
        runner.state = State.LOST
        if restarted:
            runner.loss, runner.unfit_beside = Loss.RESTART, ""
            runner.retry_at = now + quick_loss_delay_s(runner, now, free=_FREE_RESTARTS)
            return [Lost(runner, Loss.RESTART)]
        if expired and not (culprit is not None and culprit.by_keeper):
            runner.loss = Loss.EXPIRED
            runner.retry_at = max(runner.retry_at, runner.loaded_at + _SHORTEST_LIFE_S)
            return [Lost(runner, Loss.EXPIRED)]
        return self._on_pushed_out(runner, culprit, now)

    def _on_pushed_out(self, runner: Runner, culprit: _LoadSeen | None, now: float) -> list[Change]:
        if culprit is None:
            runner.loss = Loss.EVICTED
            runner.retry_at = now + quick_loss_delay_s(runner, now)
            return self._given_up(runner) or [Lost(runner, Loss.EVICTED)]
        by = culprit.runner
        self._conflicts.add(frozenset((runner.weights, by.weights)))
        if not (culprit.by_keeper and by.kept is not None):
            runner.loss = Loss.DISPLACED
            return self._given_up(runner) or [Lost(runner, Loss.DISPLACED, by.name)]
        runner.loss = Loss.EVICTED
        if given_up := self._given_up(runner):
            return given_up
        told: list[Change] = [Lost(runner, Loss.EVICTED, by.name)]
        self._evictions = [event for event in self._evictions if now - event[0] < _WAR_WINDOW_S]
        self._evictions.append((now, runner, by))
        if len(self._evictions) >= 2:
            told += self._end_war()
        return told

    def _end_war(self) -> list[Change]:
        fighters = {fighter.weights: fighter for _, victim, winner in self._evictions for fighter in (victim, winner)}
        standing = sorted((f for f in fighters.values() if not f.unfit_beside), key=lambda fighter: fighter.rank)
        self._evictions.clear()
        if len(standing) < 2:
            return []
        winner, loser = standing[0], standing[-1]
        loser.unfit_beside = winner.name
        loser.state, loser.reason = State.FAILED, f"does not fit beside {winner.name}"
        loser.to_unload = loser.present
        return [WarLost(loser, winner)]

    def _given_up(self, runner: Runner) -> list[Change]:
        """A model that lost a war was there for a request's sake, and is gone again as was to be expected."""
        if not runner.unfit_beside:
            return []
        runner.state, runner.reason = State.FAILED, f"does not fit beside {runner.unfit_beside}"
        return [Lost(runner, runner.loss)]

    def _culprit(
        self, runner: Runner, came: list[Runner], loading: dict[str, bool], runners: Iterable[Runner]
    ) -> _LoadSeen | None:
        """The load that cost this model its place; of several the last."""
        for other in runners:
            # A load of a model that is there already takes no place, unless it grows.
            if other.weights in loading and other is not runner and (not other.present or other.undo is not None):
                return _LoadSeen(runner.seen_at, other, loading[other.weights])
        for load in reversed(self._loads):
            if load.at > runner.seen_at and load.runner is not runner:
                return load
        # Not a load of ours: a request's own, or someone's who does not come through the proxy.
        for other in [*came, *(other for other in runners if other.busy and not other.present)]:
            if other is not runner:
                return _LoadSeen(runner.seen_at, other, by_keeper=False)
        return None

    def _forget_fitting(self, together: list[Runner]) -> None:
        """What is there at the same time fits."""
        for one in together:
            for other in together:
                if one is not other:
                    self._conflicts.discard(frozenset((one.weights, other.weights)))
                    if one.unfit_beside and one.unfit_beside == other.name and not one.to_unload:
                        one.unfit_beside = ""
