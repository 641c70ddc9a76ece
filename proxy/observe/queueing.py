"""Counts of what happens to a request before its way to Ollama and instead of it: queue, limits, answers kept, others.

Like ``metrics``, whose part this is: methods are called on the event loop, none waits, and no caller can add series.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.observe import labels
from proxy.observe.labels import one_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from proxy.observe.families import Families


class QueueMetrics:
    """The series of the queue, the limits and what answers without Ollama.

    Args:
        families: Where they are registered.
    """

    def __init__(self, families: Families) -> None:
        self._families = families
        self._size = {label: families.queue_size.labels(label) for label in labels.PRIORITIES}
        self._waits = {label: families.queue_wait.labels(label) for label in labels.PRIORITIES}
        self._rejected = {reason: families.rejected.labels(reason) for reason in labels.REJECT_REASONS}
        self._busy, self._free = families.slots.labels("busy"), families.slots.labels("free")
        self._bypasses = {reason: families.cache_bypass.labels(reason) for reason in labels.BYPASS_REASONS}
        for reason in labels.EVICTION_REASONS:
            families.cache_evictions.labels("response", reason)
        families.cache_entries.labels("response")
        families.cache_bytes.labels("response")

    def capacity(self, most: int) -> None:
        """How many requests may wait."""
        self._families.queue_capacity.set(most)

    def waiting(self, priority: str, change: int) -> None:
        """A request began (1) or ceased (-1) to wait."""
        self._size.get(priority, self._size["normal"]).inc(change)

    def waited(self, priority: str, seconds: float) -> None:
        """A request got its place after so long, mostly 0."""
        self._waits.get(priority, self._waits["normal"]).observe(max(0.0, seconds))

    def rejected(self, reason: str) -> None:
        """A request was turned away and never sent: full, timeout, rate_limit, shutdown."""
        self._rejected.get(reason, self._rejected["full"]).inc()

    def slots(self, busy: int, free: int) -> None:
        self._busy.set(busy)
        self._free.set(free)

    def bypassed(self, reason: str) -> None:
        """A request that the memory of answers is not for."""
        self._bypasses.get(reason, self._bypasses[labels.OTHER]).inc()

    def answers(self, entries: int, size_bytes: int) -> None:
        """What the memory of answers holds."""
        self._families.cache_entries.labels("response").set(entries)
        self._families.cache_bytes.labels("response").set(size_bytes)

    def evicted(self, reason: str) -> None:
        self._families.cache_evictions.labels("response", one_of(reason, labels.EVICTION_REASONS, "size")).inc()

    def know_fallbacks(self, providers: Iterable[str]) -> None:
        """These stand in the settings, so they exist from the start."""
        for provider in providers:
            for result in labels.FALLBACK_RESULTS:
                self._families.fallback.labels(provider, result)

    def fell_back(self, provider: str, ok: bool) -> None:
        """A fallback was asked."""
        self._families.fallback.labels(provider, "ok" if ok else "failed").inc()

    def breaker(self, state: str) -> None:
        """The breaker in front of Ollama is closed, open or half_open now."""
        self._families.breaker_open.set(0 if state == "closed" else 1)

    def shared(self) -> None:
        """A request joined the run of another one that is the same."""
        self._families.shared.inc()

    def batched(self, texts: int) -> None:
        """So many texts to embed went out as one call."""
        self._families.embed_batches.inc()
        self._families.embed_batched.inc(texts)
