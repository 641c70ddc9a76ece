from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from proxy.observe.gaps import GapHistogram

BOUNDS = (0.001, 0.01, 0.1, 1.0)


@given(st.lists(st.lists(st.floats(0, 2), min_size=1, max_size=5), min_size=1, max_size=5))
def test_it_counts_what_the_librarys_histogram_counts(pieces: list[list[float]]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    gaps = GapHistogram("gap_seconds", "Gap", BOUNDS)
    ours.register(gaps)
    histogram = Histogram("gap_seconds", "Gap", ["model"], registry=theirs, buckets=BOUNDS)
    counted, observed = gaps.labels("tiny"), histogram.labels("tiny")
    at, since = 0.0, None

    for lengths in pieces:
        times = []
        for length in lengths:
            at += length
            times.append(at)
        for before, now in zip([since, *times], times, strict=False):
            if before is not None:
                observed.observe(now - before)
        counted.add(times, since)
        since = at

    def page(registry: CollectorRegistry) -> list[str]:
        lines = generate_latest(registry).decode().splitlines()
        return [line for line in lines if "_created" not in line and "_sum" not in line]

    assert page(ours) == page(theirs)


def test_a_model_that_is_gone_has_no_series() -> None:
    gaps = GapHistogram("gap_seconds", "Gap", BOUNDS)
    gaps.labels("tiny").add([1.0, 2.0], None)
    gaps.remove_by_labels({"model": "tiny"})

    (family,) = gaps.collect()
    assert family.samples == []
