from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.doctor.finding import Severity, Skipped
from proxy.doctor.hop import at_once, buffering, held_s, parallel
from tests.doctor.observed import answer, codes, observed, only, row, stream

VIA = "http://via/api/chat"
EVENLY = [0.1 + index * 0.02 for index in range(32)]
AT_THE_END = [0.72] * 32


def test_a_hop_that_gives_everything_at_the_end_is_found() -> None:
    direct = stream(*EVENLY, made_s=0.64)
    through = stream(*AT_THE_END, made_s=0.64, url=VIA)
    finding = only(buffering(observed(direct=direct, through=through, via=answer(server="nginx/1.22.1"))))
    assert (finding.code, finding.subject) == ("hop_buffers", VIA)
    assert "proxy_buffering off" in finding.remedy
    assert "32 tokens, which Ollama says it made within 640 ms, arrived within 0 ms" in finding.evidence
    assert finding.figures["held_s"] == pytest.approx(0.62)
    assert finding.figures["direct_first_token_s"] == 0.1


def test_a_hop_that_is_not_nginx_gets_no_advice_for_nginx() -> None:
    through = stream(*AT_THE_END, made_s=0.64, url=VIA)
    finding = only(buffering(observed(through=through, via=answer(server="varnish"))))
    assert "In nginx" not in finding.remedy
    assert "varnish" in finding.evidence


def test_tokens_that_come_one_by_one_are_no_finding() -> None:
    even = stream(*EVENLY, made_s=0.64)
    assert codes(buffering(observed(direct=even, through=even))) == []


def test_a_hop_in_front_of_the_upstream_itself_is_found() -> None:
    assert codes(buffering(observed(direct=stream(*AT_THE_END, made_s=0.64)))) == ["upstream_buffers"]


def test_what_cannot_be_judged_is_said() -> None:
    too_few = stream(0.1, 0.2, made_s=0.2)
    outcome = buffering(observed(direct=too_few))
    assert isinstance(outcome, Skipped)
    assert "too few" in outcome.why
    outcome = buffering(observed(why_no_stream="switched off"))
    assert isinstance(outcome, Skipped)
    assert outcome.why == "switched off"


def test_a_stream_that_failed_is_a_finding() -> None:
    failed = stream(0.1, 0.2)
    broken = type(failed)(VIA, "m", error="answered 404")
    assert codes(buffering(observed(direct=broken))) == ["stream_failed"]


def test_a_load_that_our_own_request_caused_is_told() -> None:
    slow = stream(*EVENLY, made_s=0.64, load_s=0.3)
    assert codes(buffering(observed(row("m"), direct=slow, was_loaded=True))) == ["hidden_options"]
    assert codes(buffering(observed(row("m"), direct=slow))) == []


@given(st.lists(st.floats(0, 5), min_size=2, max_size=50), st.floats(0, 5))
def test_no_token_is_held_longer_than_all_took_to_make(gaps: list[float], made_s: float) -> None:
    arrivals = [sum(gaps[:index]) for index in range(1, len(gaps) + 1)]
    held = held_s(stream(*arrivals, made_s=made_s).measured)  # type: ignore[arg-type]
    assert held is not None
    assert 0 <= held <= made_s


def test_without_ollamas_own_time_nothing_is_said_to_be_held() -> None:
    assert held_s(stream(*EVENLY).measured) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("spans", "seen"),
    [
        ([], 0),
        ([(0, 1)], 1),
        ([(0, 1), (1, 2), (2, 3)], 1),
        ([(0, 1), (0.5, 2), (2, 3)], 2),
        ([(0, 4), (1, 2), (1.5, 3)], 3),
    ],
)
def test_streams_at_once_are_counted_at_their_most(spans: list[tuple[float, float]], seen: int) -> None:
    assert at_once(spans) == seen


@pytest.mark.parametrize(
    ("ours", "seen", "found"),
    [(1, 1, []), (1, 2, ["parallel_unused"]), (2, 1, ["parallel_exceeded"]), (4, 4, []), (8, 4, [])],
)
def test_places_are_compared_with_what_ran_at_once(ours: int, seen: int, found: list[str]) -> None:
    spans = tuple([(0.0, 9.0)] * seen + [(10.0 + index, 10.5 + index) for index in range(4 - seen)])
    settings = {"scheduler": {"parallel": ours}}
    outcome = parallel(observed(settings=settings, spans=spans, asked_at_once=4))
    assert codes(outcome) == found
    if found == ["parallel_unused"]:
        assert only(outcome).severity is Severity.NOTICE


def test_places_are_not_judged_unmeasured() -> None:
    assert isinstance(parallel(observed()), Skipped)
