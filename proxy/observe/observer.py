"""Where the story of a request ends: one call, and metrics, statistics, the ring and the log line have it.

The relay writes a ``Timeline`` and calls ``finish`` exactly once, on every way out. Everything that can be told from
the timeline is counted here and nowhere else: calls, first tokens and their parts, overhead, tokens, incomplete
replies, clients that left, other requests. The relay itself counts only what the timeline does not hold (rewriting,
retries, upstream errors, gaps between chunks).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, Protocol

from proxy.observe.row import describe

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.observe.metrics import Metrics
    from proxy.observe.recent import Recent
    from proxy.observe.stats import Stats
    from proxy.observe.timeline import Timeline


# Several requests at once are told in less time than they take one by one, between tokens of other streams and with
# cold caches; a log line is late by this at most, and pages of the admin port never are.
_TOLD_WITHIN_S: Final = 0.05
_MOST_UNTOLD: Final = 64


class RequestLog(Protocol):
    """What the observer needs of a structlog logger."""

    def bind(self) -> RequestLog: ...

    def info(self, event: str, **values: Any) -> Any: ...


class Observer:
    """Hands finished requests to everyone who shows them.

    Args:
        metrics, recent, stats, log: Those who show them.
        later: Calls back after so many seconds (``call_later``), for telling of several requests at once; ``None``:
            each is told of as it finishes.
        wall_clock: Seconds since 1970.
    """

    def __init__(
        self,
        metrics: Metrics,
        recent: Recent,
        stats: Stats,
        log: RequestLog,
        *,
        later: Callable[[float, Callable[[], None]], object] | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.metrics = metrics
        self._later = later
        self._wall_clock = wall_clock
        self._untold: list[tuple[Timeline, float]] = []
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
        self._untold.append((t, self._wall_clock()))
        if self._later is None or len(self._untold) >= _MOST_UNTOLD:
            self.settle()
        elif len(self._untold) == 1:
            self._later(_TOLD_WITHIN_S, self.settle)

    def settle(self) -> None:
        """Tell of everything that has finished, now: before somebody looks, and at the end."""
        untold, self._untold = self._untold, []
        for t, finished_unix in untold:
            self._tell(t, finished_unix)

    def _tell(self, t: Timeline, finished_unix: float) -> None:
        if t.endpoint:
            self._stats.add(self.metrics.call_finished(t), t)
        else:
            self.metrics.http_request(t.route, t.method, t.status)
        if t.client_disconnect_phase is not None:
            self.metrics.disconnect(t.client_disconnect_phase)
        row = describe(t)
        self._recent.add(row, finished_unix)
        self._log.info("request", **row)
