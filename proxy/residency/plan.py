"""What the keeper does next. Pure: reads the runners and the clock, returns actions, changes nothing.

For each kept model, most important first; the first rule that applies decides:

1. loaded though it should not be (it lost a war, or a client unloaded it while we loaded it): **unload** it once idle.
2. released, or loading: nothing.
3. it lost a war: nothing, until something changes.
4. requests run on it or wait for it: nothing, they see to it themselves.
5. it failed, or is lost again and again: nothing before its time to try again.
6. absent, lost to a restart, by expiry or to an unknown hand: **load** at once.
7. displaced by a request for another model: **load** once that model is quiet.
8. it has drifted, or a ``/v1`` call may have changed its options: **load** after five minutes without such calls.
9. it expires sooner than it should: **load**, which only renews its time. Not while another model is being loaded, or
   when its time is up already: then it is being evicted, and a load would be the next blow of a war.
10. its prompt cache is cold, and nothing is left to load: **warm** it.

Loads that take room go one at a time; what Ollama reports is never a reason to skip one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from proxy.residency.runner import Loss, Runner, State
from proxy.wire.durations import parse_keep_alive

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

STRAY_QUIET_S: Final = 300.0
QUIET_BEFORE_WARMING_S: Final = 30.0
# A request that waited for the load is about to be sent, and the next turn of a chat may follow an answer closely.
_BETWEEN_REQUESTS_S: Final = 1.0
# A pinned model expires some 290 years ahead. Anything that expires within ten has been unpinned.
_FOR_EVER_S: Final = 10 * 365 * 86_400.0


@dataclass(frozen=True, slots=True)
class Limits:
    """The settings that the plan depends on."""

    check_every_s: float = 5.0
    return_after_s: float = 60.0
    warmup: bool = True


@dataclass(frozen=True, slots=True)
class Load:
    """Load a model; ``cause`` is the reload's cause for the metric, "" where it is no reload."""

    runner: Runner
    cause: str = ""


@dataclass(frozen=True, slots=True)
class Unload:
    runner: Runner


@dataclass(frozen=True, slots=True)
class Warm:
    runner: Runner


Action = Load | Unload | Warm


def plan(
    runners: Sequence[Runner],
    now: float,
    limits: Limits,
    *,
    conflict: Callable[[Runner, Runner], bool],
    is_loading: bool = False,
    is_making_room: bool = False,
    is_warming: bool = False,
) -> list[Action]:
    """Decide what to do now.

    Args:
        runners: All that are known, in any order.
        now: Monotonic seconds.
        limits: From the settings.
        conflict: Whether one of two models was seen to cost the other its place.
        is_loading: A load of the keeper's that takes room is under way.
        is_making_room: Any load that takes room is under way.
        is_warming: A prompt cache is being warmed.
    """
    actions: list[Action] = []
    kept = sorted((runner for runner in runners if runner.kept is not None), key=lambda runner: runner.rank)
    may_load = not is_loading
    wants_load = is_loading
    for runner in kept:
        if runner.to_unload and runner.present and not runner.busy:  # 1
            actions.append(Unload(runner))
            may_load = False
        cause = _load_due(runner, runners, now, limits, conflict)
        if cause is None:
            continue
        if runner.state is State.RESIDENT:
            # It is loaded already, so this takes no room itself.
            if not is_making_room:
                actions.append(Load(runner, cause))
        else:
            wants_load = True
            if may_load:
                actions.append(Load(runner, cause))
                may_load = False
    if limits.warmup and not wants_load and not is_warming:
        actions += [Warm(runner) for runner in kept if _is_warming_due(runner, now)][:1]
    return actions


def _load_due(
    runner: Runner,
    runners: Sequence[Runner],
    now: float,
    limits: Limits,
    conflict: Callable[[Runner, Runner], bool],
) -> str | None:
    """The cause of the load that is due, or ``None``."""
    if runner.facts is None or runner.facts.remote or runner.state in (State.RELEASED, State.LOADING):  # 2
        return None
    if runner.unfit_beside and runner.state is not State.RESIDENT:  # 3
        return None
    if runner.busy or now < runner.retry_at:  # 4, 5
        return None
    if runner.strayed_at is not None:  # 8
        return "options" if now - runner.strayed_at >= STRAY_QUIET_S else None
    if runner.state is State.RESIDENT:  # 9
        return "" if _expires_too_soon(runner, now, limits) else None
    if _is_held_off(runner, runners, now, limits, conflict):  # 7
        return None
    return _RELOAD_CAUSES.get(runner.loss, "unknown") if runner.loaded_at > -math.inf else ""  # 6


_RELOAD_CAUSES: Final = {
    Loss.EVICTED: "evicted",
    Loss.DISPLACED: "evicted",
    Loss.RESTART: "restart",
    Loss.DRIFTED: "options",
}


def _is_held_off(
    runner: Runner,
    runners: Sequence[Runner],
    now: float,
    limits: Limits,
    conflict: Callable[[Runner, Runner], bool],
) -> bool:
    """Whether loading it now would take the place of a model that is in use."""
    for other in runners:
        is_wanted = other.busy or other.queued > 0
        if other is runner or not (is_wanted or other.present):
            continue
        if not is_wanted and now - other.used_at >= limits.return_after_s:
            continue
        # Beside the one that displaced it, any other in use may be in the way: it was loaded without us having seen
        # the two together. A model that was never displaced is not kept waiting on a mere suspicion.
        if conflict(runner, other) or (runner.loss is Loss.DISPLACED and other.kept is None):
            return True
    return False


def _expires_too_soon(runner: Runner, now: float, limits: Limits) -> bool:
    if runner.kept is None:
        return False
    left_s = runner.expires_at - now
    wanted_s = parse_keep_alive(runner.kept.keep_alive) or 0.0
    if left_s <= 0:
        # v0.24.0, server/sched.go: what is evicted for another model gets a time of 0, and stays listed until idle.
        return False
    if math.isinf(wanted_s):
        return left_s < _FOR_EVER_S
    return left_s < min(wanted_s / 2, 3 * limits.check_every_s)


def _is_warming_due(runner: Runner, now: float) -> bool:
    if runner.state is not State.RESIDENT or not runner.present or not runner.confirmed or runner.busy:
        return False
    if runner.warmed_at == -math.inf:
        return now - runner.used_at >= _BETWEEN_REQUESTS_S
    is_stale = runner.used_at > runner.warmed_at and runner.kept is not None and bool(runner.kept.warm)
    return is_stale and now - runner.used_at >= QUIET_BEFORE_WARMING_S
