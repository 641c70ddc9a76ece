"""The start-up checklist: one line in the log for each step, with its seconds, the first time it is reached."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable

_log: Any = structlog.get_logger("pilotlight.residency")


class Checklist:
    """Tells each step once; what happens again later is for debugging.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._started = clock()
        self._told: set[tuple[str, str]] = set()

    def __repr__(self) -> str:
        return f"<Checklist {len(self._told)} steps>"

    def tell(
        self, step: str, seconds: float | None = None, *, model: str = "", again: bool = False, **values: object
    ) -> None:
        """One line.

        Args:
            step: What was reached, for instance ``model loaded``.
            seconds: How long it took; ``None``: since the start.
            model: Whose step it is.
            again: Tell it at each time, not only at the first.
            values: More to tell.
        """
        is_first = (step, model) not in self._told
        self._told.add((step, model))
        if seconds is None:
            seconds = self._clock() - self._started
        said = {"model": model, **values} if model else values
        (_log.info if is_first or again else _log.debug)(step, seconds=round(seconds, 3), **said)


def gigabytes(size_bytes: int) -> str:
    """A size as people compare it with a graphics card's."""
    return f"{size_bytes / 2**30:.1f} GiB" if size_bytes >= 2**30 else f"{size_bytes / 2**20:.0f} MiB"
