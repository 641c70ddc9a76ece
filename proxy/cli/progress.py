"""Progress of `pilotlight batch` on standard error: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Final, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from proxy.batch.file import Tally
from proxy.batch.pace import Pace, spoken

if TYPE_CHECKING:
    from types import TracebackType

_EVERY_S: Final = 10.0


class Progress:
    """Shows how far a batch is. Use as a context.

    Args:
        before: Lines that were done before.
        may_draw: On a terminal; else lines, there too.

    Attributes:
        tally: The last one that was told.
    """

    def __init__(self, before: int, *, may_draw: bool) -> None:
        console = Console(stderr=True)
        self._bar: Bar | None = None
        if console.is_terminal and may_draw:
            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}", markup=False))
            self._bar = Bar(*columns, console=console, transient=True)
            self._task = self._bar.add_task("", total=None, completed=before)
        self._total: int | None = None
        self._pace = Pace(time.monotonic())
        self._next_at = time.monotonic() + _EVERY_S
        self._said = ""
        self.tally = Tally(before=before)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Take the bar away; idempotent."""
        if self._bar is not None:
            self._bar.stop()

    def on_total(self, total: int) -> None:
        """Take how many lines there are."""
        self._total = total
        if self._bar is not None:
            self._bar.update(self._task, total=total)

    def on_tally(self, tally: Tally) -> None:
        """Take how far it is."""
        now = time.monotonic()
        self._pace.on_done(tally.done, now)
        self.tally = tally
        if self._bar is not None:
            self._bar.update(self._task, completed=tally.before + tally.done, description=self._text(tally))
        elif now >= self._next_at or (tally.trouble and tally.trouble != self._said):
            self._next_at = now + _EVERY_S
            self._said = tally.trouble
            of = f" of {self._total:,}" if self._total is not None else ""
            sys.stderr.write(f"pilotlight batch: {tally.before + tally.done:,}{of} lines, {self._text(tally)}\n")
            sys.stderr.flush()

    def _text(self, tally: Tally) -> str:
        parts = [f"{self._pace.lines_per_s():,.1f} lines/s"]
        left_s = None if self._total is None else self._pace.left_s(self._total - tally.before - tally.done)
        if left_s is not None:
            parts.append(f"{spoken(max(0.0, left_s))} left")
        if tally.errors:
            parts.append(f"{tally.errors:,} with an error")
        if tally.trouble:
            parts.append(f"waiting: {tally.trouble}")
        return ", ".join(parts)
