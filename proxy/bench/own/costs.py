"""What one kind of decision costs, set against what it may cost."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from proxy.bench.own.table import table

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True)
class Cost:
    """Processor time of one kind of decision, in microseconds; judged by the mean."""

    title: str
    mean_us: float
    p50_us: float
    p99_us: float
    target_us: float

    @property
    def passed(self) -> bool:
        return self.mean_us <= self.target_us

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "passed": self.passed}

    def cells(self) -> tuple[str, ...]:
        """Its row of the table."""
        figures = (f"{value:.1f}" for value in (self.mean_us, self.p50_us, self.p99_us))
        return (self.title, *figures, f"{self.target_us:g}", "pass" if self.passed else "MISS")


def costs_table(costs: Iterable[Cost]) -> list[str]:
    """A line for each, below the headings."""
    return table([("processor time, us", "mean", "p50", "p99", "target", ""), *(cost.cells() for cost in costs)])
