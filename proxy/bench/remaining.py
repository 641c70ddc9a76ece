"""How much of a run is left, and how long that takes. Pure.

Told by how long a call and a load took at the beginning, and corrected by how long it took so far.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

# Before that, what it took so far says little about the rest.
_WORTH_SHARE: Final = 0.1


class Expected(NamedTuple):
    """What one run consists of, at most and roughly."""

    calls: float
    loads: float = 0
    silence_s: float = 0

    def times(self, sides: int) -> Expected:
        """The same on so many sides."""
        return Expected(self.calls * sides, self.loads * sides, self.silence_s * sides)


class Remaining:
    """Expected times of all runs.

    Args:
        parts: What is to be done in order, each so many times as there are runs.
        runs: Of each.
        seconds: After which a part ends early; ``None``: no such limit.
    """

    def __init__(self, parts: Sequence[Expected], runs: int, seconds: float | None) -> None:
        self._parts = parts
        self._runs = runs
        self._seconds = seconds
        self._load_s = 0.0
        self._call_s = 0.0
        self._ended = 0
        self._at = 0.0

    def learn(self, cold_s: float | None, call_s: float | None) -> None:
        """A first call took so long until its first token, and the next one as a whole."""
        self._call_s = max(self._call_s, call_s or 0.0)
        self._load_s = max(self._load_s, (cold_s or 0.0) - self._call_s)

    def at(self, runs: float) -> None:
        """So many runs of the current part are done."""
        self._at = runs

    def end(self) -> None:
        """The current part is over, with all its runs or early."""
        self._ended += 1
        self._at = 0.0

    @property
    def share(self) -> float:
        """What is done of the whole, from 0 to 1."""
        whole_s = self._whole_s()
        return min(1.0, self._done_s() / whole_s) if whole_s else 0.0

    def left_s(self, elapsed_s: float) -> float | None:
        """Seconds that the rest will take, after so many; ``None`` as long as nothing is known."""
        if not self._call_s:
            return None
        done_s = self._done_s()
        pace = elapsed_s / done_s if done_s and self.share > _WORTH_SHARE else 1.0
        return max(0.0, self._whole_s() - done_s) * pace

    def _whole_s(self) -> float:
        return sum(self._run_s(part) for part in self._parts) * self._runs

    def _done_s(self) -> float:
        done_s = sum(self._run_s(part) for part in self._parts[: self._ended]) * self._runs
        current = self._parts[self._ended : self._ended + 1]
        return done_s + sum(self._run_s(part) for part in current) * self._at

    def _run_s(self, part: Expected) -> float:
        # As long as nothing is known a call is a second: for a share that does as well as any other number.
        run_s = part.calls * (self._call_s or 1.0) + part.loads * self._load_s + part.silence_s
        return run_s if self._seconds is None else min(run_s, self._seconds / self._runs)
