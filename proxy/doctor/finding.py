"""What a check comes to: findings, or why it could not be made. Imports nothing of ours."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_GIB = 2**30
_MIB = 2**20


class Severity(enum.Enum):
    """How much it matters. The order is that in which findings are shown."""

    ERROR = "error"
    """Something does not work at all."""
    WARNING = "warning"
    """First tokens are late because of it, or strangers can do harm."""
    NOTICE = "notice"
    """It may be meant so; if not, it costs."""


class Basis(enum.Enum):
    """Where the evidence is from."""

    MEASURED = "measured"
    """Timed or tried by this run."""
    REPORTED = "reported"
    """Said by Ollama, by Pilotlight's admin port, by the settings or by the environment."""
    ESTIMATED = "estimated"
    """Worked out from what was said; the evidence says how."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that could be better.

    Attributes:
        code: Stands for what it is; ``docs/doctor.md`` has them all.
        subject: The model or the URL that it is about.
        title: One sentence.
        evidence: What was seen, with its figures.
        cost: What it costs the first token (or, where that is not the point, whom it harms).
        remedy: The setting or command that ends it.
        figures: The evidence's numbers by name; the names carry the unit.
    """

    code: str
    severity: Severity
    subject: str
    title: str
    evidence: str
    basis: Basis
    cost: str
    remedy: str
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Skipped:
    """A check that could not be made, and why."""

    why: str


Outcome = list[Finding] | Skipped


def amount(size_bytes: float) -> str:
    """A size as a person reads it: ``1.4 GiB``, ``79 MiB``."""
    if size_bytes >= _GIB:
        return f"{size_bytes / _GIB:.1f} GiB"
    if size_bytes >= _MIB:
        return f"{size_bytes / _MIB:.0f} MiB"
    return f"{size_bytes:.0f} B"


def span(seconds: float) -> str:
    """A duration as a person reads it: ``80 ms``, ``2.6 s``, ``4 min 12 s``, ``3 h 5 min``."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    whole = round(seconds)
    if whole < 3600:
        return _two(whole // 60, "min", whole % 60, "s")
    minutes = round(seconds / 60)
    return _two(minutes // 60, "h", minutes % 60, "min")


def _two(large: int, large_unit: str, small: int, small_unit: str) -> str:
    return f"{large} {large_unit}" + (f" {small} {small_unit}" if small else "")
