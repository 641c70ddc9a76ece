from __future__ import annotations

import math

from proxy.admission.models import Model, Models


def loaded(models: Models, name: str, now: float = 1.0, running: int = 0) -> Model:
    """A model that was loaded by a request; ``running`` more go on."""
    model = models.of(name, name)
    for _ in range(running + 1):
        models.start(model, now)
    models.end(name, now)
    return model


def test_room_is_counted_where_it_is_known() -> None:
    models = Models(1, 2)
    loaded(models, "a")
    assert models.fits(models.of("b", "b"))
    loaded(models, "b")
    assert not models.fits(models.of("c", "c"))


def test_the_one_that_goes_is_idle_unwanted_and_longest_unused() -> None:
    models = Models(1, 3)
    loaded(models, "busy", 1.0, running=1)
    old, young = loaded(models, "old", 2.0), loaded(models, "young", 3.0)
    assert models.in_the_way(models.of("new", "new"), set(), set()) == ((old,), [])
    assert models.in_the_way(models.of("new", "new"), set(), {old}) == ((young,), [])


def test_where_all_run_the_one_that_has_been_there_longest_drains() -> None:
    models = Models(1, 2)
    first, second = loaded(models, "first", 1.0, running=1), loaded(models, "second", 2.0, running=1)
    new = models.of("new", "new")
    assert models.in_the_way(new, set(), set()) == (None, [first])
    assert models.in_the_way(new, {first}, set()) == (None, [second])
    assert models.in_the_way(new, set(), {first, second}) == (None, [])


def test_all_rivals_drain_those_that_are_not_loaded_included() -> None:
    models = Models(1, 0)
    for rival in ("a", "b"):
        models.on_eviction(rival, "new", 0.0)
    a, b, new = loaded(models, "a", running=1), models.of("b", "b"), models.of("new", "new")
    displaced, drains = models.in_the_way(new, set(), set())
    assert displaced is None
    assert {model.weights for model in drains} == {a.weights, b.weights}
    models.end("a", 2.0)
    assert models.in_the_way(new, set(), set()) == ((a,), [])


def test_what_was_only_found_has_no_turn() -> None:
    models = Models(1, 2)
    models.on_resident(frozenset({"a"}))
    assert models.of("a", "a").since == -math.inf
    assert loaded(models, "b", 5.0).since == 5.0


def test_rivals_are_not_both_believed() -> None:
    models = Models(1, 0)
    models.on_eviction("a", "b", 0.0)
    models.on_resident(frozenset({"a", "b", "c"}))
    assert sorted(model.weights for model in models.residents) == ["a", "c"]


def test_what_is_not_used_is_forgotten() -> None:
    models = Models(1, 1)
    model = loaded(models, "a")
    models.of("b", "b")
    assert len(models) == 2
    models.forget_unused(models.of("b", "b"))
    models.displace(model, 2.0)
    assert len(models) == 0


def test_belief_does_not_grow_without_end() -> None:
    models = Models(1, 0)
    for number in range(1_000):
        loaded(models, f"model-{number}")
    assert len(models) == len(models.residents) == 256
