from __future__ import annotations

import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from proxy.residency.runner import UNRANKED, Loss, Runner, State
from proxy.residency.runners import Runners, quick_loss_delay_s
from proxy.rewrite.facts import ModelFacts
from proxy.settings import KeptModel, Settings

BLOB = "sha256:" + "a" * 64
OTHER_BLOB = "sha256:" + "b" * 64


def facts(name: str, weights: str = BLOB, **more: Any) -> ModelFacts:
    return ModelFacts(f"{name}:latest", f"digest of {name}", weights, frozenset({"completion"}), **more)


def runners(*models: dict[str, Any], **more: Any) -> Runners:
    return Runners(Settings.model_validate({"models": models, **more}))


def test_names_of_one_blob_share_a_runner() -> None:
    table = runners()
    assert table.of(facts("one")) is table.of(facts("two"))
    assert table.of(facts("one")).names == {"one:latest", "two:latest"}


def test_a_kept_name_has_its_place_before_ollama_has_described_it() -> None:
    table = runners({"name": "one"}, {"name": "two"})
    assert [runner.name for runner in table.kept()] == ["one:latest", "two:latest"]
    assert table.unresolved() == ["one:latest", "two:latest"]


def test_a_described_kept_name_takes_the_place_of_what_stood_for_it() -> None:
    table = runners({"name": "one", "options": {"num_ctx": 2048}})
    runner = table.of(facts("one"))
    assert table.kept() == [runner]
    assert table.unresolved() == []
    assert runner.current == {"num_ctx": 2048}


def test_a_kept_name_that_shares_the_blob_of_a_model_in_use_keeps_that_runner() -> None:
    table = runners({"name": "one", "options": {"num_ctx": 2048}})
    used = table.of(facts("other"))
    used.current = {"num_batch": 64}
    assert table.of(facts("one")) is used
    assert used.kept is not None
    assert used.current == {"num_ctx": 2048}
    assert used.name == "one:latest"


def test_two_kept_names_of_one_blob_with_different_options_contradict_each_other() -> None:
    table = runners({"name": "one", "options": {"num_ctx": 2048}}, {"name": "two", "options": {"num_ctx": 4096}})
    table.of(facts("two"))
    runner = table.of(facts("one"))
    (error,) = table.contradictions
    assert error.field == "models.1.options"
    assert runner.current == {"num_ctx": 2048}


def test_two_kept_names_of_one_blob_with_the_same_options_are_one_runner() -> None:
    table = runners({"name": "one"}, {"name": "two"})
    table.of(facts("two"))
    table.of(facts("one"))
    assert table.contradictions == []
    assert [runner.rank for runner in table.kept()] == [0]


def test_options_of_the_modelfile_belong_to_the_set_of_a_kept_model() -> None:
    table = runners({"name": "one", "options": {"num_gpu": 9}})
    runner = table.of(facts("one", parameters={"num_ctx": 1024, "stop": ["x"], "num_predict": 3}))
    assert runner.current == {"num_ctx": 1024, "num_gpu": 9}


def test_a_model_made_anew_moves_to_its_new_weights() -> None:
    table = runners({"name": "one"})
    old = table.of(facts("one"))
    new = table.of(facts("one", OTHER_BLOB))
    assert new is not old
    assert table.kept() == [new]


def test_a_request_knows_that_its_model_is_resident_only_until_it_expires() -> None:
    table = runners()
    runner = table.of(facts("one"))
    runner.current = {}
    table.on_loaded(runner, {}, "10s", now=100.0)
    assert runner.is_known(109.0)
    assert not runner.is_known(111.0)


def test_the_end_of_a_request_renews_the_time() -> None:
    table = runners()
    runner = table.of(facts("one"))
    runner.current = {}
    table.on_loaded(runner, {}, "10s", now=100.0)
    table.on_started(runner, 105.0)
    assert runner.is_known(200.0)
    table.on_finished(runner, 200.0)
    assert runner.is_known(209.0)


def test_a_load_with_other_options_than_the_current_ones_proves_nothing() -> None:
    table = runners({"name": "one"})
    runner = table.of(facts("one"))
    table.on_growth(runner, {"num_ctx": 8192})
    table.on_loaded(runner, {}, -1, now=0.0)
    assert not runner.is_known(0.0)


def test_an_undone_growth_is_remembered() -> None:
    table = runners({"name": "one", "options": {"num_ctx": 4096}})
    runner = table.of(facts("one"))
    table.on_growth(runner, {"num_ctx": 8192})
    table.on_growth(runner, {"num_ctx": 16384})
    table.on_growth_refused(runner)
    assert runner.current == {"num_ctx": 4096}
    assert runner.refused_num_ctx == 16384


def test_an_unload_releases_a_kept_model_until_it_is_wanted() -> None:
    table = runners({"name": "one"})
    runner = table.of(facts("one"))
    table.on_loaded(runner, {}, -1, now=0.0)
    table.on_unloaded(runner, 10.0)
    assert runner.state is State.RELEASED
    table.on_wanted(runner)
    assert runner.state is State.ABSENT


def test_without_warmup_kept_models_rest_until_the_first_request() -> None:
    table = runners({"name": "one"}, residency={"warmup": False})
    assert table.of(facts("one")).state is State.RELEASED


def test_a_v1_call_makes_a_set_doubtful_unless_it_is_the_servers_own() -> None:
    table = runners({"name": "one", "options": {"num_ctx": 2048}}, {"name": "two"})
    one, two = facts("one"), facts("two", OTHER_BLOB)
    for model in (one, two):
        runner = table.of(model)
        table.on_loaded(runner, dict(runner.current or {}), -1, now=0.0)
        table.on_v1(runner, model, 1.0)
    assert not table.of(one).is_known(1.0)
    assert table.of(two).is_known(1.0)


def test_a_first_lost_connection_while_loading_is_tried_again_at_once_the_second_is_not() -> None:
    table = runners({"name": "one"})
    runner = table.of(facts("one"))
    table.on_load_failed(runner, "broke", 10.0, 1.0, again_at_once=True)
    assert runner.state is State.ABSENT
    table.on_load_failed(runner, "broke", 10.0, 1.0, again_at_once=True)
    assert runner.state is State.FAILED
    assert runner.retry_at > 10.0


def test_a_load_that_was_given_up_leaves_the_model_where_it_was() -> None:
    table = runners({"name": "one"})
    runner = table.of(facts("one"))
    table.on_load_started(runner)
    table.on_load_over(runner)
    assert runner.state is State.ABSENT
    table.on_loaded(runner, {}, -1, now=0.0)
    table.on_load_over(runner)
    assert runner.state is State.RESIDENT


def test_failing_loads_are_tried_ever_more_rarely_but_always_again() -> None:
    table = runners({"name": "one"})
    runner = table.of(facts("one"))
    waits = []
    for _ in range(20):
        table.on_load_failed(runner, "no", 0.0, 1.0, again_at_once=False)
        waits.append(runner.retry_at)
    assert waits == sorted(waits)
    assert waits[0] == 5.0
    assert waits[-1] == 300.0


def test_when_ollama_is_away_its_models_are_lost() -> None:
    table = runners({"name": "one"})
    runner = table.of(facts("one"))
    table.on_loaded(runner, {}, -1, now=0.0)
    runner.unfit_beside = "other:latest"
    table.on_upstream_down()
    assert (runner.state, runner.loss, runner.unfit_beside) == (State.LOST, Loss.RESTART, "")
    assert not runner.is_known(0.0)


def test_a_model_lost_again_and_again_is_left_alone_for_ever_longer() -> None:
    runner = Runner(BLOB, loaded_at=0.0)
    delays = [quick_loss_delay_s(runner, 1.0) for _ in range(6)]
    assert delays == [0.0, 5.0, 10.0, 20.0, 40.0, 80.0]
    assert quick_loss_delay_s(runner, 1000.0) == 0.0


def test_a_runner_says_what_it_is_in_one_line() -> None:
    runner = runners({"name": "one"}).of(facts("one"))
    assert "one:latest absent" in repr(runner)
    assert "\n" not in repr(runner)
    assert runner.expires_at == -math.inf


# --- other kept models while it runs


def models(*given: dict[str, Any]) -> tuple[KeptModel, ...]:
    return Settings.model_validate({"models": given}).models


def resident(table: Runners, name: str, weights: str = BLOB, **more: Any) -> Runner:
    runner = table.of(facts(name, weights, **more))
    runner.current = runner.current or {}
    table.on_loaded(runner, dict(runner.current), -1, now=0.0)
    return runner


def test_the_same_models_again_change_nothing() -> None:
    table = runners({"name": "one", "options": {"num_ctx": 2048}})
    runner = resident(table, "one")
    table.on_growth(runner, {"num_ctx": 8192})
    table.on_loaded(runner, {"num_ctx": 8192}, -1, now=0.0)
    table.keep(models({"name": "ONE", "options": {"num_ctx": 2048}}))
    assert table.kept() == [runner]
    assert (runner.state, runner.confirmed, runner.current) == (State.RESIDENT, True, {"num_ctx": 8192})


def test_a_model_that_is_kept_no_longer_stays_loaded_as_it_is() -> None:
    table = runners(
        {"name": "one", "options": {"num_ctx": 2048}}, {"name": "two"}, defaults={"options": {"num_gpu": 1}}
    )
    runner = resident(table, "one")
    table.keep(models({"name": "two"}))
    assert [kept.name for kept in table.kept()] == ["two:latest"]
    assert (runner.rank, runner.state, runner.confirmed) == (UNRANKED, State.RESIDENT, True)
    assert (runner.current, runner.configured) == ({"num_ctx": 2048}, {"num_gpu": 1})


def test_a_model_that_is_kept_no_longer_and_not_loaded_is_like_any_other() -> None:
    table = runners({"name": "one", "options": {"num_ctx": 2048}})
    runner = table.of(facts("one"))
    table.on_load_failed(runner, "no room", 0.0, 1.0, again_at_once=False)
    table.keep(())
    assert table.kept() == []
    assert (runner.state, runner.reason, runner.current) == (State.ABSENT, "", None)


def test_a_name_that_was_never_described_is_forgotten_when_it_is_kept_no_longer() -> None:
    table = runners({"name": "one"})
    table.keep(())
    assert list(table) == []
    assert table.unresolved() == []


def test_a_new_name_holds_its_place_until_ollama_has_described_it() -> None:
    table = runners({"name": "one"})
    table.of(facts("one"))
    table.keep(models({"name": "two"}, {"name": "one"}))
    assert [kept.name for kept in table.kept()] == ["two:latest", "one:latest"]
    assert table.unresolved() == ["two:latest"]


def test_a_model_in_use_that_is_kept_now_keeps_its_runner_and_gets_its_options() -> None:
    table = runners()
    runner = resident(table, "one")
    runner.in_flight = 1
    table.keep(models({"name": "one", "options": {"num_ctx": 2048}}))
    assert table.of(facts("one")) is runner
    assert table.kept() == [runner]
    assert table.unresolved() == []
    assert (runner.current, runner.confirmed, runner.in_flight, runner.present) == ({"num_ctx": 2048}, False, 1, True)


def test_changed_options_make_the_keeper_load_it_anew() -> None:
    table = runners({"name": "one", "options": {"num_ctx": 2048}})
    runner = resident(table, "one", parameters={"num_gpu": 9})
    table.keep(models({"name": "one", "options": {"num_ctx": 4096}}))
    assert (runner.state, runner.loss, runner.confirmed) == (State.LOST, Loss.DRIFTED, False)
    assert runner.current == {"num_gpu": 9, "num_ctx": 4096}


def test_a_lower_ceiling_of_the_context_takes_back_what_grew_beyond_it() -> None:
    table = runners({"name": "one", "options": {"num_ctx": 2048}})
    runner = resident(table, "one")
    table.on_growth(runner, {"num_ctx": 8192})
    table.on_loaded(runner, {"num_ctx": 8192}, -1, now=0.0)
    table.keep(models({"name": "one", "options": {"num_ctx": 2048}, "max_num_ctx": 4096}))
    assert (runner.current, runner.confirmed) == ({"num_ctx": 2048}, False)


def test_a_load_that_ends_after_its_options_changed_proves_nothing() -> None:
    table = runners({"name": "one", "options": {"num_ctx": 2048}})
    runner = table.of(facts("one"))
    table.on_load_started(runner)
    table.keep(models({"name": "one", "options": {"num_ctx": 4096}}))
    table.on_loaded(runner, {"num_ctx": 2048}, -1, now=0.0)
    assert not runner.confirmed


def test_another_name_of_the_same_weights_takes_over() -> None:
    table = runners({"name": "one"}, {"name": "two"})
    runner = table.of(facts("one"))
    table.of(facts("two"))
    table.keep(models({"name": "two"}))
    assert table.of(facts("two")) is runner
    assert table.kept() == [runner]
    assert runner.name == "two:latest"


def test_names_of_the_same_weights_that_would_contradict_each_other_are_found_before_anything_changes() -> None:
    table = runners({"name": "one"})
    table.of(facts("one"))
    table.of(facts("two"))
    table.of(facts("other", OTHER_BLOB))
    assert table.contradiction(models({"name": "one"}, {"name": "two"}, {"name": "other"})) is None
    clash = models({"name": "other"}, {"name": "two"}, {"name": "one", "options": {"num_ctx": 1024}})
    found = table.contradiction(clash)
    assert found is not None
    assert found.field == "models.2.options"
    assert [kept.name for kept in table.kept()] == ["one:latest"]


def test_the_loser_of_a_war_gets_another_chance_with_another_list() -> None:
    table = runners({"name": "one"}, {"name": "two"})
    loser = table.of(facts("two", OTHER_BLOB))
    loser.state, loser.reason, loser.unfit_beside = State.FAILED, "does not fit beside one:latest", "one:latest"
    table.keep(models({"name": "two"}))
    assert (loser.state, loser.reason, loser.unfit_beside) == (State.LOST, "", "")


_KEPT = st.lists(
    st.fixed_dictionaries(
        {"name": st.sampled_from(["one", "two", "three"])},
        optional={"options": st.sampled_from([{}, {"num_ctx": 2048}]), "max_num_ctx": st.just(1024)},
    ),
    max_size=3,
    unique_by=lambda model: model["name"],
)


@given(st.lists(st.tuples(_KEPT, st.lists(st.sampled_from(["one", "two", "three"]), max_size=3)), max_size=6))
def test_after_any_changes_each_kept_model_has_one_runner_with_its_options(
    turns: list[tuple[list[dict[str, Any]], list[str]]],
) -> None:
    table = runners()
    blobs = {"one": BLOB, "two": BLOB, "three": OTHER_BLOB}
    kept: tuple[KeptModel, ...] = ()
    for wanted, called in turns:
        if table.contradiction(models(*wanted)) is None:
            kept = models(*wanted)
            table.keep(kept)
        for name in called:
            resident(table, name, blobs[name])
    for model in kept:
        table.of(facts(model.name, blobs[model.name]))
    weights = {blobs[model.name] for model in kept}
    assert {runner.weights for runner in table.kept()} == weights
    assert table.unresolved() == []
    for runner in table.kept():
        model = next(model for model in kept if blobs[model.name] == runner.weights)
        assert runner.name == f"{model.name}:latest"
        assert runner.configured == model.options
        assert runner.current == model.options
