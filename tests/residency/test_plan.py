from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.residency.plan import Action, Limits, Load, Unload, Warm, plan
from proxy.residency.runner import Loss, Runner, State
from proxy.rewrite.facts import ModelFacts
from proxy.settings import KeptModel

NOW = 1_000.0
FOR_EVER = NOW + 290 * 365 * 86_400.0
LIMITS = Limits(check_every_s=5.0, return_after_s=60.0)


def kept(name: str = "a", rank: int = 0, state: State = State.ABSENT, **more: Any) -> Runner:
    model = KeptModel(name=name, **{key: more.pop(key) for key in ("keep_alive", "warm") if key in more})
    facts = ModelFacts(f"{name}:latest", "", f"sha256:{name}")
    runner = Runner(facts.weights, facts, {facts.name}, model, rank, state=state, current={})
    for key, value in more.items():
        setattr(runner, key, value)
    return runner


def resident(name: str = "a", rank: int = 0, **more: Any) -> Runner:
    given = {"confirmed": True, "present": True, "expires_at": FOR_EVER, "loaded_at": 1.0, "warmed_at": NOW, **more}
    return kept(name, rank, State.RESIDENT, **given)


def other(name: str = "x", **more: Any) -> Runner:
    runner = Runner(f"sha256:{name}", ModelFacts(f"{name}:latest", "", f"sha256:{name}"), {f"{name}:latest"})
    for key, value in {"present": True, **more}.items():
        setattr(runner, key, value)
    return runner


def decide(*runners: Runner, conflicts: bool = False, now: float = NOW, **more: Any) -> list[Action]:
    return plan(runners, now, LIMITS, conflict=lambda _one, _other: conflicts, **more)


def test_an_absent_model_is_loaded() -> None:
    a = kept()
    assert decide(a) == [Load(a)]


def test_loads_go_one_at_a_time_the_most_important_first() -> None:
    less, more = kept("less", 1), kept("more", 0)
    assert decide(less, more) == [Load(more)]
    assert decide(less, more, is_loading=True) == []


@pytest.mark.parametrize("state", [State.RELEASED, State.LOADING])
def test_what_is_released_or_loading_is_left_alone(state: State) -> None:
    assert decide(kept(state=state)) == []


@pytest.mark.parametrize(
    ("loss", "cause"), [(Loss.RESTART, "restart"), (Loss.EXPIRED, "unknown"), (Loss.EVICTED, "evicted")]
)
def test_a_lost_model_is_loaded_at_once(loss: Loss, cause: str) -> None:
    a = kept(state=State.LOST, loss=loss, loaded_at=1.0)
    assert decide(a) == [Load(a, cause)]


def test_a_failed_model_is_tried_again_when_its_time_has_come() -> None:
    a = kept(state=State.FAILED, retry_at=NOW + 1)
    assert decide(a) == []
    assert decide(a, now=NOW + 1) == [Load(a)]


def test_requests_that_wait_for_a_model_load_it_themselves() -> None:
    assert decide(kept(waiting=1)) == []


def test_a_resident_model_needs_nothing() -> None:
    assert decide(resident()) == []


def test_a_model_that_has_been_unpinned_is_pinned_again() -> None:
    a = resident(expires_at=NOW + 300)
    assert decide(a) == [Load(a)]


def test_a_model_with_a_limited_time_is_renewed_before_it_expires() -> None:
    a = resident(keep_alive="10m", expires_at=NOW + 300)
    assert decide(a) == []
    assert decide(a, now=NOW + 290) == [Load(a)]


def test_nothing_is_renewed_while_another_model_is_being_loaded() -> None:
    a = resident("a", 0, expires_at=NOW + 300)
    assert decide(a, is_making_room=True) == []


def test_what_is_being_evicted_is_not_renewed() -> None:
    assert decide(resident(expires_at=NOW)) == []


# --- displaced ---


@pytest.mark.parametrize("use", [{"in_flight": 1}, {"waiting": 1}, {"used_at": NOW - 59}])
def test_a_displaced_model_waits_while_the_displacer_is_in_use(use: dict[str, Any]) -> None:
    a = kept(state=State.LOST, loss=Loss.DISPLACED, loaded_at=1.0)
    assert decide(a, other(**use), conflicts=True) == []


def test_a_displaced_model_comes_back_when_the_displacer_is_quiet() -> None:
    a = kept(state=State.LOST, loss=Loss.DISPLACED, loaded_at=1.0)
    assert decide(a, other(used_at=NOW - 61), conflicts=True) == [Load(a, "evicted")]


def test_a_displaced_model_comes_back_when_the_displacer_is_gone() -> None:
    a = kept(state=State.LOST, loss=Loss.DISPLACED, loaded_at=1.0)
    assert decide(a, other(present=False, used_at=NOW), conflicts=True) == [Load(a, "evicted")]


def test_a_displaced_model_does_not_take_the_place_of_a_third_one_in_use() -> None:
    a = kept(state=State.LOST, loss=Loss.DISPLACED, loaded_at=1.0)
    third = other("y", used_at=NOW - 1)
    assert decide(a, other(present=False), third) == []


def test_a_model_lost_by_expiry_does_not_take_the_place_of_one_it_collided_with() -> None:
    a = kept(state=State.LOST, loss=Loss.EXPIRED, loaded_at=1.0)
    assert decide(a, other(used_at=NOW - 1), conflicts=True) == []
    assert decide(a, other(used_at=NOW - 1), conflicts=False) == [Load(a, "unknown")]


# --- war ---


def test_the_loser_of_a_war_is_not_loaded() -> None:
    assert decide(kept(state=State.FAILED, unfit_beside="b:latest")) == []


def test_the_loser_of_a_war_makes_room_before_the_winner_is_loaded() -> None:
    winner = kept("w", 0, State.LOST, loss=Loss.EVICTED, loaded_at=1.0)
    loser = kept("l", 1, State.FAILED, unfit_beside="w:latest", to_unload=True, present=True)
    assert decide(winner, loser)[-1] == Unload(loser)
    assert decide(loser) == [Unload(loser)]


def test_a_loser_in_use_is_not_unloaded() -> None:
    assert decide(kept(state=State.FAILED, unfit_beside="b", to_unload=True, present=True, in_flight=1)) == []


# --- drift ---


def test_drift_is_mended_after_five_minutes_without_calls_that_cause_it() -> None:
    a = kept(state=State.LOST, loss=Loss.DRIFTED, strayed_at=NOW, present=True, loaded_at=1.0)
    assert decide(a, now=NOW + 299) == []
    assert decide(a, now=NOW + 300) == [Load(a, "options")]


def test_drift_is_not_mended_under_a_request() -> None:
    a = kept(state=State.LOST, loss=Loss.DRIFTED, strayed_at=NOW, present=True, loaded_at=1.0, in_flight=1)
    assert decide(a, now=NOW + 300) == []


# --- warming ---


def test_a_model_is_warmed_after_its_load_when_nothing_is_left_to_load() -> None:
    a, b = resident("a", 0, warmed_at=-math.inf), kept("b", 1)
    assert decide(a, b) == [Load(b)]
    assert decide(a, is_loading=True) == []
    assert decide(a) == [Warm(a)]


def test_only_one_is_warmed_at_a_time() -> None:
    a, b = resident("a", 0, warmed_at=-math.inf), resident("b", 1, warmed_at=-math.inf)
    assert decide(a, b) == [Warm(a)]
    assert decide(a, b, is_warming=True) == []


def test_a_prompt_is_warmed_again_after_half_a_minute_of_quiet() -> None:
    a = resident(warm=[{"system": "be brief"}], warmed_at=NOW - 500, used_at=NOW - 29)
    assert decide(a) == []
    assert decide(a, now=NOW + 1) == [Warm(a)]


def test_a_prompt_that_nobody_pushed_out_is_not_warmed_again() -> None:
    assert decide(resident(warm=[{"system": "be brief"}], warmed_at=NOW - 500, used_at=NOW - 600)) == []


def test_a_request_that_waited_for_the_load_goes_before_the_warming() -> None:
    a = resident(warmed_at=-math.inf, used_at=NOW)
    assert decide(a) == []
    assert decide(a, now=NOW + 2) == [Warm(a)]


def test_without_warmup_nothing_is_warmed() -> None:
    a = resident(warmed_at=-math.inf)
    assert plan([a], NOW, Limits(warmup=False), conflict=lambda _a, _b: False) == []


# --- properties ---

STATES = st.builds(
    lambda index, **more: kept(f"m{index}", index, **more),
    st.integers(0, 5),
    state=st.sampled_from(State),
    loss=st.sampled_from(Loss),
    in_flight=st.integers(0, 2),
    waiting=st.integers(0, 1),
    present=st.booleans(),
    confirmed=st.booleans(),
    used_at=st.sampled_from([-math.inf, 900.0, 990.0]),
    loaded_at=st.sampled_from([-math.inf, 1.0]),
    retry_at=st.sampled_from([-math.inf, 2_000.0]),
    strayed_at=st.sampled_from([None, 1.0, 999.0]),
    expires_at=st.sampled_from([-math.inf, NOW + 1, FOR_EVER]),
    unfit_beside=st.sampled_from(["", "m0:latest"]),
    to_unload=st.booleans(),
    warmed_at=st.sampled_from([-math.inf, 1.0, math.inf]),
)


@given(st.lists(STATES, max_size=6, unique_by=lambda runner: runner.weights), st.booleans(), st.booleans())
def test_the_plan_never_touches_a_model_in_use(runners: list[Runner], conflicts: bool, is_loading: bool) -> None:
    for action in decide(*runners, conflicts=conflicts, is_loading=is_loading):
        assert not action.runner.busy


@given(st.lists(STATES, max_size=6, unique_by=lambda runner: runner.weights), st.booleans(), st.booleans())
def test_the_plan_takes_room_for_one_model_at_most(runners: list[Runner], conflicts: bool, is_loading: bool) -> None:
    actions = decide(*runners, conflicts=conflicts, is_loading=is_loading)
    takes_room = [a for a in actions if isinstance(a, Load) and a.runner.state is not State.RESIDENT]
    assert len(takes_room) <= (0 if is_loading else 1)


@given(st.lists(STATES, max_size=6, unique_by=lambda runner: runner.weights))
def test_released_and_given_up_models_are_never_loaded(runners: list[Runner]) -> None:
    for action in decide(*runners):
        if isinstance(action, Load):
            assert action.runner.state is not State.RELEASED
            assert not action.runner.unfit_beside or action.runner.state is State.RESIDENT
