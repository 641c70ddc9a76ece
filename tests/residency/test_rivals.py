from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.residency.rivals import News, Rivals

NOTHING = News([], [])
AB = frozenset("ab")


def looked(rivals: Rivals, listed: str, **more: Any) -> News:
    return rivals.look(
        frozenset(listed),
        frozenset(more.get("used", "")),
        frozenset(more.get("loaded", "")),
        list(more.get("loading", "")),
        frozenset(more.get("wanted", more.get("loading", ""))),
        more.get("judged", frozenset()),
        more.get("now", 0.0),
    )


@pytest.fixture
def rivals() -> Rivals:
    return Rivals(5.0)


def test_what_was_judged_is_told_once_and_so_is_its_end(rivals: Rivals) -> None:
    judged = frozenset([AB])
    assert looked(rivals, "b", judged=judged) == News([("a", "b")], [])
    assert looked(rivals, "b", judged=judged) == NOTHING
    assert looked(rivals, "ab") == News([], [AB])


def test_a_model_in_use_that_gives_way_to_another_is_told_at_once(rivals: Rivals) -> None:
    looked(rivals, "a", used="ab")
    assert looked(rivals, "b", used="ab") == News([("a", "b")], [])
    assert looked(rivals, "b", used="ab") == NOTHING


def test_one_that_nobody_uses_is_left_to_be_judged(rivals: Rivals) -> None:
    looked(rivals, "a")
    assert looked(rivals, "b", used="b") == NOTHING


def test_one_that_is_gone_with_nothing_in_its_place_was_displaced_by_nothing(rivals: Rivals) -> None:
    looked(rivals, "ab", used="ab")
    assert looked(rivals, "b", used="ab") == NOTHING


def test_two_that_are_listed_together_fit_after_all(rivals: Rivals) -> None:
    looked(rivals, "a", used="ab")
    looked(rivals, "b", used="ab")
    assert looked(rivals, "ab", used="ab") == News([], [AB])


def test_a_load_that_does_not_begin_waits_for_what_is_in_use(rivals: Rivals) -> None:
    waiting = {"used": "ab", "loading": "b"}
    assert looked(rivals, "ac", **waiting, now=10.0) == NOTHING
    assert rivals.is_missing
    assert looked(rivals, "ac", **waiting, now=14.9) == NOTHING
    assert looked(rivals, "ac", **waiting, now=15.0) == News([("a", "b")], [])
    assert looked(rivals, "ac", **waiting, now=20.0) == NOTHING


def test_a_load_that_has_begun_takes_its_time(rivals: Rivals) -> None:
    for now in (0.0, 10.0, 100.0):
        assert looked(rivals, "ab", used="ab", loading="b", now=now) == NOTHING
    assert not rivals.is_missing


def test_a_load_that_waits_for_another_load_blames_nobody(rivals: Rivals) -> None:
    for now in (0.0, 10.0):
        assert looked(rivals, "a", used="abc", loading="bc", now=now) == NOTHING


def test_a_load_that_only_the_keeper_wants_drives_nobody_out(rivals: Rivals) -> None:
    for now in (0.0, 10.0):
        assert looked(rivals, "a", used="a", loading="b", wanted="", now=now) == NOTHING


def test_another_load_is_missed_from_its_own_beginning(rivals: Rivals) -> None:
    looked(rivals, "a", used="a", loading="b", now=0.0)
    assert looked(rivals, "a", used="a", loading="c", now=6.0) == NOTHING
    assert looked(rivals, "a", used="a", loading="c", now=11.0) == News([("a", "c")], [])


def test_after_a_restart_nothing_is_believed(rivals: Rivals) -> None:
    looked(rivals, "a", used="ab")
    looked(rivals, "b", used="ab")
    rivals.forget()
    assert looked(rivals, "a", used="ab") == NOTHING
    assert looked(rivals, "ab", used="ab") == NOTHING


def test_one_that_was_loaded_and_displaced_between_two_looks_is_told(rivals: Rivals) -> None:
    looked(rivals, "b", used="ab", loading="a")
    # "b" is loaded again already, and listed from the beginning of that; or it is not.
    assert looked(rivals, "b", used="ab", loaded="a", loading="b") == News([("a", "b")], [])
    other = Rivals(5.0)
    looked(other, "b", used="ab", loading="a")
    assert looked(other, "", used="ab", loaded="a", loading="b") == News([("a", "b")], [])


def test_a_model_that_is_loaded_anew_displaced_itself(rivals: Rivals) -> None:
    looked(rivals, "ab", used="ab")
    assert looked(rivals, "b", used="ab", loading="a") == NOTHING
    assert looked(rivals, "ab", used="ab", loaded="a") == NOTHING


_SETS = st.frozensets(st.sampled_from("abc"))


@given(st.lists(st.tuples(_SETS, _SETS, _SETS, _SETS, st.sampled_from([0.0, 3.0, 6.0])), max_size=12))
def test_what_is_told_adds_up_and_never_holds_of_two_that_are_listed(
    looks: list[tuple[frozenset[str], frozenset[str], frozenset[str], frozenset[str], float]],
) -> None:
    rivals, believed, now = Rivals(5.0), set(), 0.0
    for listed, used, loaded, loading, later in looks:
        now += later
        news = rivals.look(listed, used, loaded, sorted(loading), loading, frozenset(), now)
        told = [frozenset(pair) for pair in news.evictions]
        assert len(set(told)) == len(told)
        assert not believed & set(told)
        assert set(news.fits) <= believed
        believed = (believed | set(told)) - set(news.fits)
        assert not any(pair <= listed for pair in believed)
        assert all(len(pair) == 2 for pair in believed)
