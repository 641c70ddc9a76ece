"""How fast a batch goes, and how long it will take. Pure."""

from __future__ import annotations

from collections import deque
from typing import Final

# Long enough to even out groups and slow lines, short enough to follow a model that has become slower.
_OVER_S: Final = 30.0


class Pace:
    """The rate over the last half minute.

    Args:
        now: Monotonic seconds, when it begins.
    """

    def __init__(self, now: float) -> None:
        self._marks = deque([(now, 0)])

    def on_done(self, count: int, now: float) -> None:
        """Take that so many lines are done by now, in all."""
        self._marks.append((now, count))
        # One that is older stays, to measure from.
        while len(self._marks) > 2 and self._marks[1][0] <= now - _OVER_S:
            self._marks.popleft()

    def lines_per_s(self) -> float:
        """0 where nothing is known yet."""
        (began, first), (ended, last) = self._marks[0], self._marks[-1]
        return (last - first) / (ended - began) if ended > began else 0.0

    def left_s(self, lines: int) -> float | None:
        """Seconds that so many more will take; ``None`` where nothing is known."""
        rate = self.lines_per_s()
        return lines / rate if rate else None


def spoken(seconds: float) -> str:
    """A duration as people say it: ``42 s``, ``3 min``, ``2 h 5 min``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
