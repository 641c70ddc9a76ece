from __future__ import annotations

import prometheus_client
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics import exposition as openmetrics

from proxy.observe.counting import Counter, Histogram

BOUNDS = (0.0, 0.1, 1.0, 2.5)


def page(kind: type[prometheus_client.Histogram], values: list[float]) -> list[str]:
    registry = CollectorRegistry()
    family = kind("seconds", "text", ["model"], registry=registry, buckets=BOUNDS)
    for value in values:
        family.labels("a").observe(value)
    family.labels("b")
    return [line for line in generate_latest(registry).decode().splitlines() if "_created" not in line]


@given(st.lists(st.sampled_from(BOUNDS) | st.floats(0, 100)))
def test_it_counts_as_the_librarys_own(values: list[float]) -> None:
    assert page(Histogram, values) == page(prometheus_client.Histogram, values)


@given(st.lists(st.integers(0, 1 << 40)))
def test_a_counter_counts_as_the_librarys_own(values: list[int]) -> None:
    pages = []
    for kind in (Counter, prometheus_client.Counter):
        registry = CollectorRegistry()
        family = kind("calls", "text", ["model"], registry=registry)
        for value in values:
            family.labels("a").inc(value)
        family.labels("b").inc()
        pages.append([line for line in generate_latest(registry).decode().splitlines() if "_created" not in line])
    assert pages[0] == pages[1]


def test_an_exemplar_stands_at_its_bucket() -> None:
    registry = CollectorRegistry()
    family = Histogram("seconds", "text", registry=registry, buckets=BOUNDS)
    family.observe(0.5, {"trace_id": "abc"})
    lines = openmetrics.generate_latest(registry).decode().splitlines()  # type: ignore[no-untyped-call]
    (line,) = [line for line in lines if "abc" in line]
    assert line.startswith('seconds_bucket{le="1.0"} 1.0 # {trace_id="abc"} 0.5 ')
