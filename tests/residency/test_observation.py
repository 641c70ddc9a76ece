from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.residency.observation import Drifted, Lost, WarLost, Watch
from proxy.residency.plan import Limits, Load, Unload, plan
from proxy.residency.runner import Loss, Runner, State
from proxy.residency.runners import Runners
from proxy.rewrite.facts import ModelFacts
from proxy.settings import Settings
from proxy.upstream.ollama import RunningModel

FOR_EVER_S = 290 * 365 * 86_400.0


def facts(name: str) -> ModelFacts:
    return ModelFacts(f"{name}:latest", f"digest {name}", f"sha256:{name}", frozenset({"completion"}))


class Scene:
    """Kept models a, b, c and strangers, a watch, and what /api/ps lists. The wall clock is the monotonic one."""

    def __init__(self, *kept: str) -> None:
        self.table = Runners(Settings.model_validate({"models": [{"name": name} for name in kept]}))
        self.watch = Watch()
        self.now = 1_000.0
        for name in kept:
            self.table.of(facts(name))

    def __getitem__(self, name: str) -> Runner:
        return self.table.of(facts(name))

    def loaded(self, name: str, *, by_keeper: bool = True) -> None:
        self.now += 1.0
        runner = self[name]
        runner.current = runner.current if runner.current is not None else {}
        self.table.on_loaded(runner, runner.current, -1, self.now)
        self.watch.on_loaded(runner, self.now, by_keeper=by_keeper)

    def look(self, *names: str, after_s: float = 0.0, **more: Any) -> list[Any]:
        self.now += after_s
        rows = [(self[name], self.row(name)) for name in names]
        return self.watch.look(list(self.table), rows, self.now, self.now, **more)

    def row(self, name: str, *, num_ctx: int = 4096, expires_in_s: float = FOR_EVER_S) -> RunningModel:
        return RunningModel(f"{name}:latest", f"digest {name}", 10, 10, self.now + expires_in_s, num_ctx)

    def look_at(self, *rows: tuple[str, RunningModel], **more: Any) -> list[Any]:
        matched = [(self[name], row) for name, row in rows]
        return self.watch.look(list(self.table), matched, self.now, self.now, **more)


def test_a_model_that_is_there_is_no_news() -> None:
    scene = Scene("a")
    scene.loaded("a")
    assert scene.look("a") == []
    assert scene["a"].shown_num_ctx == 4096
    assert scene["a"].is_known(scene.now)


def test_all_gone_is_a_restart() -> None:
    scene = Scene("a", "b")
    scene.loaded("a")
    scene.loaded("b")
    scene.look("a", "b")
    assert scene.look(after_s=5) == [Lost(scene["a"], Loss.RESTART), Lost(scene["b"], Loss.RESTART)]


def test_a_server_that_takes_every_load_and_never_shows_one_is_not_loaded_without_a_pause() -> None:
    scene = Scene("a")
    loads = 0
    began = scene.now
    while scene.now - began < 60.0:
        actions = plan(list(scene.table), scene.now, Limits(), conflict=scene.watch.conflict)
        if any(isinstance(action, Load) for action in actions):
            scene.loaded("a")
            loads += 1
            scene.look()
        scene.now += 0.1
    assert 2 <= loads <= 15


def test_a_model_whose_time_is_up_has_expired() -> None:
    scene = Scene("a", "b")
    scene.loaded("a")
    scene.loaded("b")
    scene.look_at(("a", scene.row("a", expires_in_s=3)), ("b", scene.row("b")))
    assert scene.look("b", after_s=5) == [Lost(scene["a"], Loss.EXPIRED)]


def test_a_model_that_is_listed_while_it_makes_room_has_not_expired() -> None:
    scene = Scene("a", "b")
    scene.loaded("a")
    scene.look("a")
    loading = [(scene["b"], True)]
    scene.look_at(("a", scene.row("a", expires_in_s=0)), loading=loading)
    assert not scene["a"].is_known(scene.now)
    assert scene.look(after_s=1, loading=loading) == [Lost(scene["a"], Loss.EVICTED, "b:latest")]


def test_a_model_gone_for_no_reason_is_evicted() -> None:
    scene = Scene("a", "b")
    scene.loaded("a")
    scene.loaded("b")
    scene.look("a", "b")
    assert scene.look("b", after_s=5) == [Lost(scene["a"], Loss.EVICTED)]


def test_a_model_whose_place_a_request_took_is_displaced() -> None:
    scene = Scene("a")
    scene.loaded("a")
    scene.look("a")
    scene.loaded("x", by_keeper=False)
    assert scene.look("x") == [Lost(scene["a"], Loss.DISPLACED, "x:latest")]
    assert scene.watch.conflict(scene["a"], scene["x"])


def test_a_model_whose_place_someone_else_took_is_displaced_too() -> None:
    scene = Scene("a")
    scene.loaded("a")
    scene.look("a")
    assert scene.look("x", after_s=5) == [Lost(scene["a"], Loss.DISPLACED, "x:latest")]


def test_a_model_is_displaced_by_a_load_that_is_still_under_way() -> None:
    scene = Scene("a")
    scene.loaded("a")
    scene.look("a")
    assert scene.look(loading=[(scene["x"], False)]) == [Lost(scene["a"], Loss.DISPLACED, "x:latest")]


def test_a_model_is_displaced_by_a_request_that_loads_its_own_model() -> None:
    scene = Scene("a")
    scene.loaded("a")
    scene.look("a")
    scene["x"].in_flight = 1
    assert scene.look() == [Lost(scene["a"], Loss.DISPLACED, "x:latest")]


def test_models_seen_together_do_not_collide_any_more() -> None:
    scene = Scene("a")
    scene.loaded("a")
    scene.look("a")
    scene.loaded("x", by_keeper=False)
    scene.look("x")
    scene.loaded("a")
    scene.look("a", "x")
    assert not scene.watch.conflict(scene["a"], scene["x"])


def test_two_kept_models_that_evict_each_other_are_at_war_and_the_more_important_one_wins() -> None:
    scene = Scene("a", "b")
    scene.loaded("a")
    scene.look("a")
    scene.loaded("b")
    assert scene.look("b") == [Lost(scene["a"], Loss.EVICTED, "b:latest")]
    scene.loaded("a")
    changes = scene.look("a")
    assert changes == [Lost(scene["b"], Loss.EVICTED, "a:latest"), WarLost(scene["b"], scene["a"])]
    assert scene["b"].state is State.FAILED
    assert scene["b"].reason == "does not fit beside a:latest"


def test_one_eviction_is_no_war() -> None:
    scene = Scene("a", "b")
    scene.loaded("a")
    scene.look("a")
    scene.loaded("b")
    scene.look("b")
    scene.loaded("a")
    assert scene.look("a", "b") == []
    assert scene["b"].unfit_beside == ""


def test_the_loser_of_a_war_stays_so_when_a_request_loaded_it_for_a_while() -> None:
    scene = Scene("a", "b")
    for name in "aba":
        scene.loaded(name)
        scene.look(name)
    scene.loaded("b", by_keeper=False)
    scene.look("b")
    assert scene["b"].state is State.RESIDENT
    scene.loaded("a")
    scene.look("a")
    assert scene["b"].state is State.FAILED


def test_the_loser_is_forgiven_when_both_are_seen_together() -> None:
    scene = Scene("a", "b")
    for name in "aba":
        scene.loaded(name)
        scene.look(name)
    scene.loaded("b", by_keeper=False)
    scene.look("a", "b")
    assert scene["b"].unfit_beside == ""


def test_renewing_a_model_that_is_there_evicts_nothing() -> None:
    scene = Scene("a", "b")
    scene.loaded("a")
    scene.loaded("b")
    scene.look("a", "b")
    assert scene.look("b", after_s=5, loading=[(scene["b"], True)]) == [Lost(scene["a"], Loss.EVICTED)]


def test_another_context_length_than_after_our_load_is_drift_and_told_once() -> None:
    scene = Scene("a")
    scene.loaded("a")
    scene.look("a")
    assert scene.look_at(("a", scene.row("a", num_ctx=2048))) == [Drifted(scene["a"], 2048, 4096)]
    assert scene.look_at(("a", scene.row("a", num_ctx=2048))) == []
    assert (scene["a"].state, scene["a"].loss) == (State.LOST, Loss.DRIFTED)
    assert not scene["a"].is_known(scene.now)


def test_what_ollama_made_of_num_ctx_is_no_drift() -> None:
    scene = Scene("a")
    scene["a"].current = {"num_ctx": 999_999}
    scene.loaded("a")
    scene.look_at(("a", scene.row("a", num_ctx=8192)))
    assert scene.look_at(("a", scene.row("a", num_ctx=8192))) == []


def test_a_model_that_its_own_request_reloads_is_not_lost() -> None:
    scene = Scene("a", "b")
    scene.loaded("a")
    scene.loaded("b")
    scene.look("a", "b")
    scene["a"].in_flight = 1
    assert scene.look("b") == []
    scene["a"].in_flight = 0
    assert scene.look("b") == [Lost(scene["a"], Loss.EVICTED)]


def test_an_answer_that_was_asked_for_before_a_load_says_nothing_about_it() -> None:
    scene = Scene("a")
    asked_at = scene.now
    scene.loaded("a")
    assert scene.look(asked_at=asked_at) == []
    assert scene["a"].present


def test_a_released_model_that_is_gone_is_no_loss() -> None:
    scene = Scene("a", "b")
    scene.loaded("a")
    scene.loaded("b")
    scene.look("a", "b")
    scene.table.on_unloaded(scene["a"], scene.now)
    assert scene.look("b") == []
    assert scene["a"].state is State.RELEASED


def test_a_released_model_that_someone_loads_again_is_kept_again() -> None:
    scene = Scene("a")
    scene.loaded("a")
    scene.look("a")
    scene.table.on_unloaded(scene["a"], scene.now)
    scene.look()
    scene.look("a")
    assert scene["a"].state is State.ABSENT


def test_a_model_that_is_not_kept_forgets_its_options_when_it_is_gone() -> None:
    scene = Scene()
    scene["x"].current = {"num_batch": 64}
    scene.loaded("x", by_keeper=False)
    scene.look("x")
    scene.look()
    assert scene["x"].current is None


class World:
    """Plan and watch beside a server that holds ``room`` models and evicts as Ollama does, in simulated time."""

    def __init__(self, room: int, kept: int, load_s: float) -> None:
        self.names = [f"m{index}" for index in range(kept)]
        self.scene = Scene(*self.names)
        self.room = room
        self.load_s = load_s
        self.there: list[str] = []
        self.loads: list[float] = []

    def load(self, name: str) -> None:
        if name not in self.there:
            self.loads.append(self.scene.now)
            if len(self.there) >= self.room:
                # v0.24.0, server/sched.go, ByDurationAndName: all are pinned alike, so the path decides.
                self.there.remove(min(self.there))
            self.there.append(name)
        self.scene.now += self.load_s

    def run(self, until_s: float) -> None:
        while self.scene.now < 1_000.0 + until_s:
            self.scene.look(*self.there)
            actions = plan(list(self.scene.table), self.scene.now, Limits(), conflict=self.scene.watch.conflict)
            for action in actions:
                name = action.runner.name.removesuffix(":latest")
                if isinstance(action, Load):
                    self.load(name)
                    self.scene.loaded(name)
                elif isinstance(action, Unload):
                    action.runner.to_unload = False
                    self.there = [other for other in self.there if other != name]
            if not any(isinstance(action, Load | Unload) for action in actions):
                self.scene.now += 5.0


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(1, 6), st.floats(0.1, 3.0))
def test_wars_end_within_a_minute_and_the_most_important_models_are_left(room: int, kept: int, load_s: float) -> None:
    world = World(room, kept, load_s)
    world.run(60.0)
    loads_in_a_minute = len(world.loads)
    world.run(3_600.0)
    assert len(world.loads) == loads_in_a_minute
    assert set(world.there) == set(world.names[:room])
    assert world.scene["m0"].state is State.RESIDENT
    for name in world.names[room:]:
        assert world.scene[name].state is State.FAILED


def test_a_watch_says_what_it_holds() -> None:
    assert repr(Watch()) == "<Watch loads=0 evictions=0 conflicts=0>"
