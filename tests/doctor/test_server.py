from __future__ import annotations

import pytest

from proxy.doctor.facts import Contact, Reached, Stamp
from proxy.doctor.finding import Basis, Severity, Skipped
from proxy.doctor.server import clock, is_ollama, openness, reachable, version, via_reachable
from tests.doctor.observed import NOW, URL, answer, codes, observed, ollama, only


@pytest.mark.parametrize("reached", [each for each in Reached if each is not Reached.ANSWERED])
def test_what_cannot_be_reached_is_told_with_how_far_it_came(reached: Reached) -> None:
    failed = Contact(URL, reached, took_s=2.0)
    finding = only(reachable(observed(upstream=failed)))
    assert (finding.code, finding.severity) == ("unreachable", Severity.ERROR)
    assert reached.value in finding.title
    assert finding.remedy.endswith(".")
    assert only(via_reachable(observed(via=failed))).code == "via_unreachable"
    assert isinstance(is_ollama(observed(upstream=failed)), Skipped)


def test_what_answers_is_reached() -> None:
    assert codes(reachable(observed())) == []
    assert codes(via_reachable(observed(via=ollama()))) == []
    assert isinstance(via_reachable(observed()), Skipped)


def test_another_web_server_is_not_ollama() -> None:
    page = answer(404, text="<html>", server="nginx")
    finding = only(is_ollama(observed(upstream=page)))
    assert finding.code == "not_ollama"
    assert "nginx" in finding.evidence
    assert "404" in finding.evidence
    assert codes(is_ollama(observed(upstream=answer(body={"version": 7})))) == ["not_ollama"]
    assert codes(is_ollama(observed())) == []


@pytest.mark.parametrize(("status", "hint"), [(401, "--header"), (403, "edge.hosts"), (421, "edge.hosts")])
def test_a_refusal_is_told_apart_from_another_server(status: int, hint: str) -> None:
    finding = only(is_ollama(observed(upstream=answer(status))))
    assert finding.code == "refused"
    assert hint in finding.remedy
    assert only(via_reachable(observed(via=answer(status)))).code == "via_refuses"


def test_a_call_that_went_wrong_is_a_finding() -> None:
    assert codes(is_ollama(observed(troubles={"/api/ps": "answered with 500"}))) == ["broken_api"]


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("0.9.6", ["vulnerable_version", "old_version"]),
        ("0.10.0", ["vulnerable_version", "old_version"]),
        ("0.11.5", ["vulnerable_version"]),
        ("0.17.0", ["vulnerable_version"]),
        ("0.17.1", []),
        ("0.24.0", []),
        ("0.33.0-rc2", []),
    ],
)
def test_versions_that_are_known_to_be_bad_are_told(said: str, found: list[str]) -> None:
    assert codes(version(observed(upstream=ollama(said)))) == found


def test_the_version_that_one_request_ends_matters_where_others_reach_it() -> None:
    assert codes(version(observed(upstream=ollama("0.24.0"), foreign_host=answer()))) == ["crashing_version"]
    assert codes(version(observed(upstream=ollama("0.24.0"), foreign_host=answer(403)))) == []
    assert codes(version(observed(upstream=ollama("0.24.1"), foreign_host=answer()))) == []


def test_a_build_without_a_version_is_not_judged() -> None:
    assert isinstance(version(observed(upstream=ollama("0.0.0"))), Skipped)


def test_a_server_that_takes_any_host_is_open() -> None:
    finding = only(openness(observed(foreign_host=answer())))
    assert (finding.code, finding.basis) == ("open_to_all", Basis.MEASURED)
    assert "so it listens on this machine's own addresses too" in finding.evidence
    # What nginx answers says nothing of where Ollama listens.
    assert "passes any name on" in only(openness(observed(foreign_host=answer(server="nginx")))).evidence
    assert codes(openness(observed(foreign_host=answer(403)))) == []
    assert isinstance(openness(observed(foreign_host=Contact(URL, Reached.BROKEN))), Skipped)


@pytest.mark.parametrize(("ahead", "found"), [(0, []), (1.5, []), (30, ["clock_skew"]), (-30, ["clock_skew"])])
def test_a_clock_is_wrong_only_where_no_round_trip_explains_it(ahead: float, found: list[str]) -> None:
    stamps = [Stamp(NOW, NOW + 0.01, int(NOW + ahead))]
    assert codes(clock(observed(stamps=stamps))) == found
    # An answer that took a minute could have been made at any time of it.
    assert codes(clock(observed(stamps=[Stamp(NOW - 60, NOW + 60, int(NOW + ahead))]))) == []


def test_the_skew_is_told_with_its_direction() -> None:
    ahead = only(clock(observed(stamps=[Stamp(NOW, NOW, NOW + 30)])))
    assert "30 s ahead of" in ahead.title
    assert "too long" in ahead.cost
    behind = only(clock(observed(stamps=[Stamp(NOW, NOW, NOW - 31)])))
    assert "30 s behind" in behind.title
    assert "too early" in behind.cost
    assert isinstance(clock(observed()), Skipped)
