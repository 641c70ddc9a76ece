"""Numbers as text, and what a ratio says in a word. Pure: figures are shown, never worked out anew."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from proxy.bench.results import Estimate, Run, Workload

Standing = Literal["sooner", "later", "same", "unknown"]


def significant(value: float, digits: int = 3) -> str:
    """A decimal number with so many digits that count; whole numbers keep all of theirs."""
    if value == 0:
        return "0"
    places = digits - 1 - math.floor(math.log10(abs(value)))
    # Rounding may carry into one digit more: 0.9996 is 1.00 and not 1.000.
    places = digits - 1 - math.floor(math.log10(abs(round(value, places))))
    return f"{value:,.{max(0, places)}f}"


def seconds(value: float) -> str:
    """A duration in the unit that suits it."""
    if value == 0:
        return "0 s"
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        # 0.9996 s is shown as 1.00 s, not as 1,000 ms.
        if abs(value) * factor >= 0.9995:
            return f"{significant(value * factor)} {unit}"
    return f"{significant(value * 1e6)} µs"


def size(value: float) -> str:
    """Bytes, in powers of 1024."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if value >= factor:
            return f"{significant(value / factor)} {unit}"
    return f"{value:,.0f} B"


FORMATS: Final[Mapping[str, Callable[[float], str]]] = {
    "s": seconds,
    "times": lambda value: f"{significant(value)} ×",  # noqa: RUF001 - the sign of multiplication is meant
    "%": lambda value: f"{significant(value)} %",
    "per s": lambda value: f"{significant(value)} /s",
    "bytes": size,
    "number": lambda value: f"{value:,.0f}",
    "plain": significant,
    "limit": lambda value: f"{value:,g}",
}


def standing(ratio: Estimate | None) -> Standing:
    """What the interval of a ratio lets one say about the first token by way of the proxy."""
    if ratio is None or ratio.low is None or ratio.high is None:
        return "unknown"
    if ratio.low > 1:
        return "sooner"
    return "later" if ratio.high < 1 else "same"


def standing_of(workload: Workload) -> Standing:
    """The standing of the means: a workload is what all its calls take together."""
    return standing(workload.ratio.mean if workload.ratio is not None else None)


def by_standing(run: Run) -> dict[Standing, list[int]]:
    """Places of the workloads by their standing, the largest difference first."""
    found: dict[Standing, list[int]] = {"sooner": [], "later": [], "same": [], "unknown": []}
    for place, workload in enumerate(run.workloads):
        found[standing_of(workload)].append(place)
    for places in found.values():
        places.sort(key=lambda place: -_distance(run.workloads[place]))
    return found


def _distance(workload: Workload) -> float:
    return abs(math.log(workload.ratio.mean.value)) if workload.ratio else 0.0


def listed(names: Sequence[str]) -> str:
    """Some names as in a sentence."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
