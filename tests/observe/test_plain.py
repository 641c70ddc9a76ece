"""What the library's metrics would show is what ours show: the same events go into both, and the pages are compared."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics

from proxy.observe.plain import PlainCounter, PlainGauge, PlainHistogram

if TYPE_CHECKING:
    from collections.abc import Sequence

BOUNDS = (0, 0.001, 0.01, 0.5, 1, 2.5, 10, 65536, 4_194_304)

LABELS = st.tuples(
    st.sampled_from(["a", "llama3.2:3b", 'x"} 1\nx{y="', "\\", "другое", ""]), st.sampled_from(["b", "c"])
)
EDGES = [
    edge for bound in BOUNDS for edge in (bound, math.nextafter(bound, -math.inf), math.nextafter(bound, math.inf))
]
# Whole numbers are exact in both up to 2**53: ours stay whole, while the library's become floats at once.
NUMBERS = st.one_of(
    st.sampled_from([*EDGES, math.inf, -math.inf, -0.0]), st.floats(allow_nan=False), st.integers(-9, 9)
)
AMOUNTS = st.one_of(st.just(math.inf), st.floats(0, allow_nan=False), st.integers(0, 1 << 32))


class Pair:
    """A registry for the library's metrics and one for ours."""

    def __init__(self) -> None:
        self.theirs, self.ours = CollectorRegistry(), CollectorRegistry(auto_describe=False)

    def counters(self, name: str, *labels: str) -> tuple[Counter, PlainCounter]:
        ours = PlainCounter(name, 'What "it" is\\\nof', labels)
        self.ours.register(ours)
        return Counter(name, 'What "it" is\\\nof', labels, registry=self.theirs), ours

    def gauges(self, name: str, *labels: str) -> tuple[Gauge, PlainGauge]:
        ours = PlainGauge(name, "What it is", labels)
        self.ours.register(ours)
        return Gauge(name, "What it is", labels, registry=self.theirs), ours

    def histograms(self, name: str, *labels: str, bounds: Sequence[float] = BOUNDS) -> tuple[Histogram, PlainHistogram]:
        ours = PlainHistogram(name, "What it is", bounds, labels)
        self.ours.register(ours)
        return Histogram(name, "What it is", labels, registry=self.theirs, buckets=bounds), ours

    def assert_same(self) -> None:
        assert classic(self.ours) == classic(self.theirs)
        assert timeless(self.ours) == timeless(self.theirs)


def shown(page: bytes) -> list[str]:
    """Without when a child was made, which ours do not note; classic pages have a family of its own for that."""
    return [line for line in page.decode().split("\n") if "_created" not in line]


def classic(registry: CollectorRegistry) -> list[str]:
    return shown(generate_latest(registry))


def timeless(registry: CollectorRegistry) -> list[str]:
    """An OpenMetrics page without the time of its exemplars."""
    return [re.sub(r"(# \{.*\} \S+) [0-9.]+$", r"\1", line) for line in shown(openmetrics.generate_latest(registry))]


@given(st.lists(st.tuples(LABELS, AMOUNTS)))
def test_counters_show_what_the_librarys_show(events: list[tuple[tuple[str, str], float]]) -> None:
    pair = Pair()
    for family in pair.counters("events_total", "one", "two"):
        for labels, amount in events:
            family.labels(*labels).inc(amount)
            family.labels(*labels).inc()

    pair.assert_same()


@given(st.lists(st.tuples(LABELS, st.sampled_from(["inc", "dec", "set"]), NUMBERS)))
def test_gauges_show_what_the_librarys_show(events: list[tuple[tuple[str, str], str, float]]) -> None:
    pair = Pair()
    for family in pair.gauges("level", "one", "two"):
        for labels, what, number in events:
            getattr(family.labels(*labels), what)(number)
            family.labels("up", "down").inc()
            family.labels("up", "down").dec()

    pair.assert_same()


@given(st.lists(st.tuples(LABELS, NUMBERS, st.sampled_from([None, {}, {"trace_id": 'a"\\\n'}, {"trace_id": "4bf9"}]))))
def test_histograms_show_what_the_librarys_show(
    events: list[tuple[tuple[str, str], float, dict[str, str] | None]],
) -> None:
    pair = Pair()
    for family in pair.histograms("length_seconds", "one", "two"):
        for labels, number, exemplar in events:
            family.labels(*labels).observe(number, exemplar)

    pair.assert_same()


@given(st.lists(st.lists(st.floats(0, 2), min_size=1, max_size=5), min_size=1, max_size=5))
def test_gaps_are_what_would_be_observed_one_by_one(pieces: list[list[float]]) -> None:
    together, singly = (PlainHistogram("gap_seconds", "Gap", BOUNDS).labels() for _ in range(2))
    at, since = 0.0, None

    for lengths in pieces:
        times = []
        for length in lengths:
            at += length
            times.append(at)
        for before, now in zip([since, *times], times, strict=False):
            if before is not None:
                singly.observe(now - before)
        together.observe_gaps(times, since)
        since = at

    assert together.counts == singly.counts
    assert together.total == pytest.approx(singly.total)


def test_families_without_labels_are_shown_from_the_start() -> None:
    pair = Pair()
    counter, ours = pair.counters("events_total")
    gauge, level = pair.gauges("level")
    histogram, lengths = pair.histograms("length_seconds")
    pair.assert_same()

    counter.inc(3)
    ours.labels().inc(3)
    gauge.set(-2.5)
    level.labels().set(-2.5)
    histogram.observe(0.5)
    lengths.labels().observe(0.5)

    pair.assert_same()
    assert pair.ours.get_sample_value("length_seconds_bucket", {"le": "0.5"}) == 1


def test_families_without_children_have_their_head_only() -> None:
    pair = Pair()
    pair.counters("events_total", "one")
    pair.gauges("level", "one")
    pair.histograms("length_seconds", "one")

    pair.assert_same()


def test_nothing_is_shown_of_a_child_that_was_removed() -> None:
    pair = Pair()
    for family in pair.gauges("level", "model", "state"):
        for model in ("a", "b", "c"):
            for state in ("lost", "failed"):
                family.labels(model, state).set(1)
        family.remove("c", "lost")
        family.remove("nobody", "lost")
    theirs, ours = pair.gauges("size", "model", "state")
    for family in (theirs, ours):
        for model in ("a", "b"):
            family.labels(model, "lost").set(1)
            family.labels(model, "failed").set(1)
    theirs.remove_by_labels({"model": "a"})
    ours.remove_where("model", "a")

    pair.assert_same()
    assert pair.ours.get_sample_value("level", {"model": "c", "state": "lost"}) is None
    assert pair.ours.get_sample_value("size", {"model": "a", "state": "lost"}) is None
    assert pair.ours.get_sample_value("size", {"model": "b", "state": "lost"}) == 1


def test_a_child_that_is_asked_for_again_begins_at_zero_once_it_was_removed() -> None:
    family = PlainCounter("events_total", "Events", ("model",))
    first = family.labels("a")
    first.inc(5)
    assert family.labels("a") is first

    family.remove_where("model", "a")

    assert family.labels("a").value == 0


def test_the_registry_finds_families_by_the_names_of_their_samples() -> None:
    pair = Pair()
    pair.counters("events_total", "one")[1].labels("x").inc()
    pair.gauges("level")
    pair.histograms("length_seconds")

    found = pair.ours.restricted_registry(["events_total", "length_seconds_count"]).collect()

    assert {(sample.name, sample.value) for family in found for sample in family.samples} == {
        ("events_total", 1),
        ("length_seconds_count", 0),
    }


@pytest.mark.parametrize("family", [PlainGauge("level", ""), PlainCounter("level_sum", ""), PlainCounter("level", "")])
def test_no_name_is_used_twice(family: Any) -> None:
    registry = CollectorRegistry()
    registry.register(PlainHistogram("level", "", BOUNDS))

    with pytest.raises(ValueError, match="Duplicated"):
        registry.register(family)


@pytest.mark.parametrize("values", [(), ("a",), ("a", "b", "c")])
def test_labels_that_are_too_many_or_too_few_are_refused(values: tuple[str, ...]) -> None:
    family = PlainGauge("level", "Level", ("one", "two"))

    with pytest.raises(ValueError, match="level has the labels"):
        family.labels(*values)

    assert family.collect()[0].samples == []


def test_a_counter_does_not_go_down() -> None:
    counter = PlainCounter("events_total", "Events").labels()
    counter.inc(2)

    with pytest.raises(ValueError, match="only goes up"):
        counter.inc(-1)

    assert counter.value == 2


@pytest.mark.parametrize("bounds", [(2, 1), (1, 1), (1, math.inf)])
def test_bounds_that_do_not_rise_are_refused(bounds: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="do not rise"):
        PlainHistogram("length_seconds", "Length", bounds)


def test_an_exemplar_stays_with_its_bucket_until_the_next_one() -> None:
    lengths = PlainHistogram("length_seconds", "Length", (1, 2)).labels()

    lengths.observe(0.5, {"trace_id": "first"})
    lengths.observe(1.5, {"trace_id": "other"})
    lengths.observe(0.75, {"trace_id": "second"})
    lengths.observe(0.25)

    assert {place: (found.labels, found.value) for place, found in lengths.exemplars.items()} == {
        0: ({"trace_id": "second"}, 0.75),
        1: ({"trace_id": "other"}, 1.5),
    }
