"""Where the story of a request ends: one call, and metrics, statistics, the ring and the log line have it.

The relay writes a ``Timeline`` and calls ``finish`` exactly once, on every way out. Everything that can be told from
the timeline is counted here and nowhere else: calls, first tokens and their parts, overhead, tokens, incomplete
replies, clients that left, other requests. The relay itself counts only what the timeline does not hold (rewriting,
retries, upstream errors, gaps between chunks).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from proxy.observe.row import describe

if TYPE_CHECKING:
    from proxy.observe.metrics import Metrics
    from proxy.observe.recent import Recent
    from proxy.observe.stats import Stats
    from proxy.observe.timeline import Timeline


class RequestLog(Protocol):
    """What the observer needs of a structlog logger."""

    def bind(self) -> RequestLog: ...

    def info(self, event: str, **values: Any) -> Any: ...


class Observer:
    """Hands finished requests to everyone who shows them."""

    def __init__(self, metrics: Metrics, recent: Recent, stats: Stats, log: RequestLog) -> None:
        self.metrics = metrics
        self._recent = recent
        self._stats = stats
        # What structlog.get_logger() returns puts itself together anew for every line until it is bound.
        self._log = log.bind()

    def start(self, t: Timeline) -> None:
        """A request arrived; ``endpoint`` is known. Each is answered by one ``finish``."""
        if t.endpoint:
            self.metrics.call_started(t.endpoint)

    def finish(self, t: Timeline) -> None:
        """A request ended, in whatever way. Waits for nothing, so it may run while the request is being cancelled.

        Args:
            t: Its ``finished``, ``status`` and ``outcome`` are set.
        """
        if t.endpoint:
            self._stats.add(self.metrics.call_finished(t), t)
        else:
            self.metrics.http_request(t.route, t.method, t.status)
        if t.client_disconnect_phase is not None:
            self.metrics.disconnect(t.client_disconnect_phase)
        row = describe(t)
        self._recent.add(row)
        self._log.info("request", **row)
