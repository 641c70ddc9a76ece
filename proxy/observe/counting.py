"""Histogram and counter for one thread: what is observed some thirty times per call and once per token.

prometheus_client's own take a lock or two for each value, and walk the buckets, because any thread may observe. Here
the event loop alone observes; a thread that writes the page reads meanwhile, and each number that it reads is whole.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from typing import TYPE_CHECKING

import prometheus_client
from prometheus_client.samples import Exemplar, Sample
from prometheus_client.utils import floatToGoString

if TYPE_CHECKING:
    from collections.abc import Iterable


class Histogram(prometheus_client.Histogram):
    """Like the library's, whose labels, children and names it has; the counting is its own.

    Builds on what prometheus_client 0.26 keeps private (``metrics.py``); the version is pinned to it.
    """

    def _metric_init(self) -> None:
        self._counts = [0] * len(self._upper_bounds)
        self._observed = 0.0
        self._exemplars: dict[int, Exemplar] = {}

    def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None:
        """Count a value. On the event loop only."""
        bucket = bisect_left(self._upper_bounds, amount)
        self._counts[bucket] += 1
        self._observed += amount
        if exemplar:
            self._exemplars[bucket] = Exemplar(exemplar, amount, time.time())

    def _child_samples(self) -> Iterable[Sample]:
        samples = []
        total = 0.0
        for bucket, (bound, count) in enumerate(zip(self._upper_bounds, self._counts, strict=True)):
            total += count
            labels = {"le": floatToGoString(bound)}  # type: ignore[no-untyped-call]
            samples.append(Sample("_bucket", labels, total, None, self._exemplars.get(bucket)))
        samples.append(Sample("_count", {}, total, None, None))
        samples.append(Sample("_sum", {}, self._observed, None, None))
        return tuple(samples)


class Counter(prometheus_client.Counter):
    """Like the library's, in the same way. Counts up; nothing is checked."""

    def _metric_init(self) -> None:
        self._counted = 0.0

    def inc(self, amount: float = 1, exemplar: dict[str, str] | None = None) -> None:
        """Count. On the event loop only, and without exemplars."""
        self._counted += amount

    def _child_samples(self) -> Iterable[Sample]:
        return (Sample("_total", {}, self._counted, None, None),)
