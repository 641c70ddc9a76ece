"""How many repetitions may be under way at once, so that they never become the load that keeps an upstream down.

As Envoy's (``circuit_breakers.thresholds.retry_budget``, 20 % and at least 3 there): a share of what is in flight, so
that it grows with the traffic and needs no window of time.
"""

from __future__ import annotations


class RetryBudget:
    """Counts repetitions.

    Args:
        share: Of the requests in flight that may be repetitions at the same time.
        least: That many always may, so that a quiet proxy can repeat at all.

    Attributes:
        running: Repetitions under way, their pauses included.
    """

    def __init__(self, share: float = 0.1, least: int = 1) -> None:
        self._share = share
        self._least = least
        self.running = 0

    def __repr__(self) -> str:
        return f"<RetryBudget {self.running} running>"

    def may_retry(self, in_flight: int) -> bool:
        """Whether one more may begin.

        Args:
            in_flight: Requests under way, those that repeat included.
        """
        return self.running < max(self._least, int(self._share * in_flight))

    def on_retry_start(self) -> None:
        self.running += 1

    def on_retry_end(self) -> None:
        self.running -= 1
