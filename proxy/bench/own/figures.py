"""What ``scripts/bench relay`` has found, set against what is wanted. Pure.

A target is an amount, and a multiple of nginx's in the same run. Machines differ, and so do their quiet hours, so the
multiple decides wherever nginx was measured; without it the amount does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from proxy.bench.own.table import table

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


# The ways to the stand-in that are compared.
DIRECT: Final = "direct"
NGINX: Final = "nginx"
PILOTLIGHT: Final = "Pilotlight"


@dataclass(frozen=True, slots=True)
class Measure:
    """One thing that is measured.

    Attributes:
        target: At most this much.
        of_nginx: At most so many times what nginx needs; ``None`` where only the amount counts.
    """

    title: str
    unit: str
    target: float
    of_nginx: float | None
    decimals: int


FIRST_TOKEN_CHAT: Final = Measure("first token, added, chat", "ms", 0.40, 3.5, 3)
FIRST_TOKEN_GENERATE: Final = Measure("first token, added, generate as chat", "ms", 0.40, 3.5, 3)
CPU_CHAT: Final = Measure("CPU per token, chat", "us", 16, 1.6, 1)
CPU_GENERATE: Final = Measure("CPU per token, generate as chat", "us", 24, 2.4, 1)
MEMORY_REST: Final = Measure("memory at rest", "MiB", 70, None, 1)
MEMORY_STREAM: Final = Measure("memory per idle stream", "KiB", 32, None, 1)


@dataclass(frozen=True, slots=True)
class Row:
    """One measure, by way; a way on which there is nothing to measure is absent."""

    measure: Measure
    values: Mapping[str, float]

    @property
    def ratio(self) -> float | None:
        """How many times nginx's Pilotlight's value is; ``None`` without a value of nginx's that can be divided by."""
        nginx = self.values.get(NGINX, 0.0)
        return self.values[PILOTLIGHT] / nginx if nginx > 0 else None

    @property
    def passed(self) -> bool:
        if self.measure.of_nginx is None or self.ratio is None:
            return self.values[PILOTLIGHT] <= self.measure.target
        return self.ratio <= self.measure.of_nginx

    def as_json(self) -> dict[str, Any]:
        measure = self.measure
        return {
            "measure": measure.title,
            "unit": measure.unit,
            **{name: round(value, 4) for name, value in self.values.items()},
            "ratio": None if self.ratio is None else round(self.ratio, 3),
            "target": measure.target,
            "target_of_nginx": measure.of_nginx,
            "passed": self.passed,
        }


_HEADINGS: Final = ("", DIRECT, NGINX, PILOTLIGHT, "of nginx", "target", "of nginx", "")


def figures_table(rows: Iterable[Row]) -> str:
    """Aligned columns, a line for each row."""
    return "\n".join(table([_HEADINGS, *(_cells(row) for row in rows)]))


def _cells(row: Row) -> tuple[str, ...]:
    measure = row.measure
    values = (row.values.get(name) for name in (DIRECT, NGINX, PILOTLIGHT))
    return (
        f"{measure.title}, {measure.unit}",
        *("-" if value is None else f"{value:.{measure.decimals}f}" for value in values),
        "-" if row.ratio is None else f"{row.ratio:.2f}",
        f"{measure.target:g}",
        "-" if measure.of_nginx is None else f"{measure.of_nginx:g}",
        "pass" if row.passed else "MISS",
    )
