"""Whether the upstream is tried at all: after failures in a row it is left alone for a moment.

What must live here: the three states and what moves between them. What it must not know: sockets, requests, the time.
A failure is no connection, or no byte of an answer; an error that Ollama answers is an answer.

closed     everything passes; ``failures`` in a row open it
open       everything is refused, for ``open_s``
half_open  one at a time is let through, the probe: its success closes, its failure opens again
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

CLOSED: Final = "closed"
OPEN: Final = "open"
HALF_OPEN: Final = "half_open"


class Verdict(enum.Enum):
    """What may be done: anything, the one probe, nothing."""

    PASS = "pass"  # noqa: S105 - no password
    PROBE = "probe"
    REFUSE = "refuse"


class Breaker:
    """A circuit breaker for one upstream.

    Args:
        failures: In a row, after which it opens.
        open_s: Seconds for which it then refuses. Short, because a connect that is refused costs little and Ollama is
            back within seconds.
        on_state: Told of each new state by its name.

    Attributes:
        state: One of the three names, for logs and ``/stats``.
        failures: In a row up to now. Whoever brings an answer has to tell only where this is not 0.
    """

    def __init__(
        self, failures: int = 5, open_s: float = 1.0, on_state: Callable[[str], None] = lambda state: None
    ) -> None:
        self._most_failures = failures
        self._open_s = open_s
        self._on_state = on_state
        self._open_until = 0.0
        self._probing = False
        self.state = CLOSED
        self.failures = 0

    def __repr__(self) -> str:
        return f"<Breaker {self.state}, {self.failures} failures>"

    def allow(self, now: float) -> Verdict:
        """Ask before each attempt. After ``PROBE`` one of the events below has to follow."""
        if self.state == CLOSED:
            return Verdict.PASS
        if self._probing or now < self._open_until:
            return Verdict.REFUSE
        self._probing = True
        self._enter(HALF_OPEN)
        return Verdict.PROBE

    def retry_after_s(self, now: float) -> float:
        """Seconds after which it may be worth while to ask again; 0.0 where it is now."""
        if self.state == CLOSED:
            return 0.0
        # A probe that is out either closes it, or opens it for as long again.
        return self._open_s if self._probing else max(0.0, self._open_until - now)

    def on_connected(self, now: float) -> None:
        """The probe's connection stands.

        Enough to let others through, because an answer may take minutes; but a server that accepts and then says
        nothing has one failure and not a whole row of them before it is left alone again.
        """
        if self.state == HALF_OPEN:
            self._probing = False
            self.failures = self._most_failures - 1
            self._enter(CLOSED)

    def on_success(self, now: float) -> None:
        """The upstream answered, whatever it said and whoever asked."""
        self._probing = False
        self.failures = 0
        self._enter(CLOSED)

    def on_failure(self, now: float, verdict: Verdict = Verdict.PROBE) -> None:
        """No connection, or a fresh one that gave not one byte.

        Args:
            now: Monotonic seconds.
            verdict: What the one that failed was told. One that was told to pass and fails only now says nothing new
                about an upstream that is being probed.
        """
        if self.state == OPEN or (self.state == HALF_OPEN and verdict is not Verdict.PROBE):
            return
        self.failures += 1
        if self.state == HALF_OPEN or self.failures >= self._most_failures:
            self._probing = False
            self._open_until = now + self._open_s
            self._enter(OPEN)

    def on_probe_abandoned(self, now: float) -> None:
        """The probe's client left before there was an outcome: the next one that asks is the probe."""
        if self.state == HALF_OPEN:
            self._probing = False

    def _enter(self, state: str) -> None:
        if state != self.state:
            self.state = state
            self._on_state(state)
