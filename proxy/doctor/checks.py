"""All checks in their order, and what they come to together."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final, NamedTuple

from proxy.doctor import hop, memory, server, sidecar, staying, watching
from proxy.doctor.finding import Finding, Outcome, Severity, Skipped
from proxy.observe.row import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from proxy.doctor.facts import Observed

CHECKS: Final[tuple[Callable[[Observed], Outcome], ...]] = (
    server.reachable,
    server.via_reachable,
    server.is_ollama,
    server.version,
    server.openness,
    server.clock,
    staying.resident,
    staying.kept,
    staying.lasting,
    staying.keep_alive,
    staying.options,
    staying.names,
    memory.spill,
    memory.fitting,
    memory.places,
    watching.happened,
    hop.buffering,
    hop.parallel,
    sidecar.bypass,
    sidecar.admin_reachable,
    sidecar.ready,
    sidecar.reloads,
)

_LONGEST: Final = 2000

CODES: Final = (
    "unreachable",
    "via_unreachable",
    "via_refuses",
    "refused",
    "not_ollama",
    "broken_api",
    "vulnerable_version",
    "old_version",
    "crashing_version",
    "open_to_all",
    "clock_skew",
    "nothing_resident",
    "not_stored",
    "not_resident",
    "unpinned",
    "keep_alive_zero",
    "keep_alive_unread",
    "context_drift",
    "shared_weights",
    "spilled",
    "on_processor",
    "does_not_fit",
    "too_few_places",
    "evicted",
    "reloaded",
    "shortened",
    "expired",
    "unloaded",
    "upstream_buffers",
    "hop_buffers",
    "stream_failed",
    "hidden_options",
    "parallel_unused",
    "parallel_exceeded",
    "client_bypasses",
    "admin_unreachable",
    "not_ready",
    "model_failed",
    "model_lost",
    "model_released",
    "reloads",
)
"""Every code that a finding can have."""


class Checked(NamedTuple):
    """One check and what it came to.

    Attributes:
        skipped: Why it could not be made; "" where it was.
    """

    number: int
    name: str
    findings: tuple[Finding, ...]
    skipped: str = ""


def examine(observed: Observed, ignored: Collection[str] = ()) -> list[Checked]:
    """Make every check, in order.

    Args:
        observed: What was seen.
        ignored: Codes that the operator does not want to hear of.
    """
    checked = []
    for number, check in enumerate(CHECKS, 1):
        outcome = check(observed)
        if isinstance(outcome, Skipped):
            checked.append(Checked(number, check.__name__, (), outcome.why))
        else:
            kept = tuple(_printable(finding) for finding in outcome if finding.code not in ignored)
            checked.append(Checked(number, check.__name__, kept))
    return checked


def _printable(finding: Finding) -> Finding:
    """Names and texts come from whatever answered; none of them may move a terminal's cursor."""
    return dataclasses.replace(
        finding,
        subject=printable(finding.subject, _LONGEST),
        title=printable(finding.title, _LONGEST),
        evidence=printable(finding.evidence, _LONGEST),
        cost=printable(finding.cost, _LONGEST),
        remedy=printable(finding.remedy, _LONGEST),
    )


def all_findings(checked: list[Checked]) -> list[Finding]:
    """The findings of all checks, the gravest first, else in the order of the checks."""
    order = list(Severity)
    return sorted((f for each in checked for f in each.findings), key=lambda finding: order.index(finding.severity))
