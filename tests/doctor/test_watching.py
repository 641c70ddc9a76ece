from __future__ import annotations

from typing import Any

from proxy.doctor.facts import Snapshot
from proxy.doctor.finding import Skipped
from proxy.doctor.watching import Kind, changes, happened
from tests.doctor.observed import FOREVER, NOW, codes, described, observed, only, row


def looks(*rows: list[Any]) -> tuple[Snapshot, ...]:
    return tuple(Snapshot(NOW + 10 * index, tuple(each)) for index, each in enumerate(rows))


def kinds(*rows: list[Any], ahead: float = 0.0) -> list[tuple[Kind, str]]:
    return [(change.kind, change.model) for change in changes(looks(*rows), ahead)]


A, B = row("a"), row("b")


def test_nothing_happens_while_nothing_changes() -> None:
    assert kinds([A], [A], [A, B], [A, B]) == []


def test_what_goes_when_its_time_is_up_has_expired() -> None:
    assert kinds([row("a", expires=NOW + 5)], []) == [(Kind.EXPIRED, "a")]
    # Though another came at the same time: it had to go anyway.
    assert kinds([row("a", expires=NOW + 5)], [B]) == [(Kind.EXPIRED, "a")]


def test_expiry_is_by_the_clock_of_the_server() -> None:
    assert kinds([row("a", expires=NOW + 60)], [B]) == [(Kind.EVICTED, "a")]
    assert kinds([row("a", expires=NOW + 60)], [B], ahead=60) == [(Kind.EXPIRED, "a")]


def test_what_goes_for_another_was_pushed_out_by_it() -> None:
    (change,) = changes(looks([A], [B]))
    assert (change.kind, change.model, change.by) == (Kind.EVICTED, "a", "b")


def test_an_end_that_was_set_to_make_room_does_not_hide_who_needed_it() -> None:
    found = kinds([A], [row("a", expires=NOW + 9)], [B])
    assert found[-1] == (Kind.EVICTED, "a")


def test_what_a_request_shortened_has_expired_when_it_goes() -> None:
    soon = row("a", expires=NOW + 25)
    assert kinds([A], [soon], [soon], []) == [(Kind.SHORTENED, "a"), (Kind.EXPIRED, "a")]


def test_what_goes_alone_was_unloaded_and_what_goes_with_all_is_gone_with_them() -> None:
    assert kinds([A, B], [B]) == [(Kind.UNLOADED, "a")]
    assert kinds([A, B], []) == [(Kind.ALL_GONE, "a"), (Kind.ALL_GONE, "b")]


def test_another_context_is_a_reload() -> None:
    (change,) = changes(looks([row("a", ctx=4096)], [row("a", ctx=8192)]))
    assert (change.kind, change.before, change.after) == (Kind.RELOADED, 4096, 8192)
    # Ollama before 0.10.0 tells none.
    assert kinds([row("a", ctx=0)], [row("a", ctx=8192)]) == []


def test_a_longer_stay_is_use_and_a_shorter_one_a_clients_keep_alive() -> None:
    assert kinds([row("a", expires=NOW + 300)], [row("a", expires=NOW + 310)]) == []
    assert kinds([row("a", expires=FOREVER)], [row("a", expires=NOW + 40)]) == [(Kind.SHORTENED, "a")]


def test_each_kind_is_a_finding() -> None:
    models = {"b": described("b", capabilities=frozenset(["embedding"]))}

    def found(*rows: list[Any]) -> Any:
        return happened(observed(models=models, watched=looks(*rows)))

    finding = only(found([A], [B]))
    assert (finding.code, finding.title) == ("evicted", "a was pushed out by b (embedding model)")
    assert finding.evidence.endswith("seen 10 s after the watch began")
    assert codes(found([row("a", expires=NOW + 5)], [])) == ["expired"]
    assert codes(found([A, B], [B])) == ["unloaded"]
    assert codes(found([A, B], [])) == ["unloaded", "unloaded"]
    assert codes(found([row("a", ctx=4096)], [row("a", ctx=8192)])) == ["reloaded"]
    shortened = only(found([A], [row("a", expires=NOW + 40)]))
    assert (shortened.code, "it was to stay for ever, then 30 s" in shortened.evidence) == ("shortened", True)
    assert codes(found([A], [A])) == []
    assert isinstance(found([A]), Skipped)
