"""Counters, gauges and histograms that are plain numbers: every request touches dozens, some before its first token.

Everything is counted on the event loop's thread, so a number needs no lock and is exact at once; the page is written in
another thread, which only reads. The library's own take four calls and one or two locks for each event, and its
histograms try one bucket after the other (prometheus_client 0.26, metrics.py and values.py). Registry, samples and text
are the library's, so a page is what it would be.

A family makes a child for each set of label values, and a child is what counts: ask for it once where it is used often.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from bisect import bisect_left
from itertools import pairwise
from math import inf
from typing import TYPE_CHECKING, Generic, TypeVar

from prometheus_client.core import CounterMetricFamily, Exemplar, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.utils import floatToGoString

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from prometheus_client import Metric

C = TypeVar("C")


class Count:
    """Goes up only."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0

    def inc(self, amount: float = 1) -> None:
        """Add, at least 0: to Prometheus a counter that goes down has begun anew.

        Raises:
            ValueError: The amount is negative.
        """
        if amount < 0:
            raise ValueError("a counter only goes up")
        self.value += amount


class Level:
    """Goes up and down."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0

    def inc(self, amount: float = 1) -> None:
        self.value += amount

    def dec(self, amount: float = 1) -> None:
        self.value -= amount

    def set(self, value: float) -> None:
        self.value = value


class Distribution:
    """How many values were within which bounds, and their sum.

    Args:
        bounds: Upper bounds of the buckets, which belong to them; rising, without infinity.

    Attributes:
        counts: Values by bucket, those beyond the last bound at the end; not cumulative.
        total: Their sum.
        exemplars: By bucket, the last value that came with one.
    """

    __slots__ = ("_bounds", "counts", "exemplars", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0
        self.exemplars: dict[int, Exemplar] = {}

    def observe(self, value: float, exemplar: dict[str, str] | None = None) -> None:
        """Count a value.

        Args:
            value: Any number; one that is none (NaN) has no bucket and must not come here.
            exemplar: Labels that lead to where the value is from. Names and values have at most 128 characters
                together (OpenMetrics 1.0, "Exemplars").
        """
        place = bisect_left(self._bounds, value)
        self.counts[place] += 1
        self.total += value
        if exemplar:
            self.exemplars[place] = Exemplar(exemplar, value, time.time())

    def observe_gaps(self, times: Sequence[float], since: float | None) -> None:
        """Count the gaps between times, many at once: the one thing that is counted for every token.

        Args:
            times: When something happened, in order; at least one.
            since: When it happened before that; ``None`` where the first of them is the first of all.
        """
        bounds, counts = self._bounds, self.counts
        before = times[0] if since is None else since
        self.total += times[-1] - before
        for now in times[1:] if since is None else times:
            counts[bisect_left(bounds, now - before)] += 1
            before = now


class PlainFamily(ABC, Generic[C]):
    """A name, and a child for each set of label values that was asked for.

    Args:
        name, text: As exposed.
        labels: Names. A family without any has one child, from the start.
        make: Makes a child.
    """

    def __init__(self, name: str, text: str, labels: Iterable[str], make: Callable[[], C]) -> None:
        self._name = name
        self._text = text
        self._labels = tuple(labels)
        self._make = make
        self._children: dict[tuple[str, ...], C] = {}
        if not self._labels:
            self.labels()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._name} children={len(self._children)}>"

    def labels(self, *values: str) -> C:
        """The child with these values; always the same one, until it is removed.

        Raises:
            ValueError: There are more or fewer labels.
        """
        child = self._children.get(values)
        if child is None:
            if len(values) != len(self._labels):
                raise ValueError(f"{self._name} has the labels {self._labels}")
            child = self._children[values] = self._make()
        return child

    def remove(self, *values: str) -> None:
        """Drop the child with these values, if there is one."""
        self._children.pop(values, None)

    def remove_where(self, label: str, value: str) -> None:
        """Drop every child whose label has this value."""
        place = self._labels.index(label)
        for values in [values for values in self._children if values[place] == value]:
            del self._children[values]

    def describe(self) -> list[Metric]:
        """The family without children: the registry takes its names from it, when it is registered."""
        return [self._written({})]

    def collect(self) -> list[Metric]:
        """What there is, for the page; may run in a thread while children are made, removed and counted in."""
        # One call that nothing interrupts. A list of the items is not: an allocation may start the garbage collector.
        return [self._written(self._children.copy())]

    @abstractmethod
    def _written(self, children: Mapping[tuple[str, ...], C]) -> Metric:
        """These children as samples."""


class PlainCounter(PlainFamily[Count]):
    """A family of counters; its name ends in ``_total``."""

    def __init__(self, name: str, text: str, labels: Iterable[str] = ()) -> None:
        super().__init__(name, text, labels, Count)

    def _written(self, children: Mapping[tuple[str, ...], Count]) -> Metric:
        family = CounterMetricFamily(self._name, self._text, labels=self._labels)
        for values, child in children.items():
            family.add_metric(values, child.value)
        return family


class PlainGauge(PlainFamily[Level]):
    """A family of gauges."""

    def __init__(self, name: str, text: str, labels: Iterable[str] = ()) -> None:
        super().__init__(name, text, labels, Level)

    def _written(self, children: Mapping[tuple[str, ...], Level]) -> Metric:
        family = GaugeMetricFamily(self._name, self._text, labels=self._labels)
        for values, child in children.items():
            family.add_metric(values, child.value)
        return family


class PlainHistogram(PlainFamily[Distribution]):
    """A family of histograms.

    Args:
        bounds: Upper bounds of the buckets, 0 or more (the library shows no sum beside others), without infinity.

    Raises:
        ValueError: The bounds do not rise, so that no bucket could be found by halving.
    """

    def __init__(self, name: str, text: str, bounds: Sequence[float], labels: Iterable[str] = ()) -> None:
        exact = tuple(map(float, bounds))
        if any(lower >= upper for lower, upper in pairwise((*exact, inf))):
            raise ValueError(f"the bounds of {name} do not rise")
        self._ends = [floatToGoString(bound) for bound in (*exact, inf)]  # type: ignore[no-untyped-call]
        super().__init__(name, text, labels, lambda: Distribution(exact))

    def _written(self, children: Mapping[tuple[str, ...], Distribution]) -> Metric:
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        for values, child in children.items():
            # A value that is counted meanwhile may be in one of these already and in another not yet.
            counts, total, exemplars = child.counts.copy(), child.total, child.exemplars.copy()
            cumulative = 0
            buckets: list[tuple[str, float] | tuple[str, float, Exemplar]] = []
            for place, end in enumerate(self._ends):
                cumulative += counts[place]
                exemplar = exemplars.get(place)
                buckets.append((end, cumulative) if exemplar is None else (end, cumulative, exemplar))
            family.add_metric(values, buckets, total)
        return family
