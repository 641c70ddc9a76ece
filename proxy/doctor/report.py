"""The examination as JSON can hold it; ``docs/doctor.schema.json`` describes it."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from proxy.doctor.checks import all_findings
from proxy.doctor.facts import ahead_s, clock_offset, expires_in_s, keep_alive_s
from proxy.doctor.hop import at_once, held_s
from proxy.doctor.watching import changes

if TYPE_CHECKING:
    from proxy.doctor.checks import Checked
    from proxy.doctor.facts import Contact, Observed, Stream
    from proxy.upstream.ollama import RunningModel

FORMAT: Final = 1
"""Counts up when a member goes or changes its meaning; more members may come without that."""


def as_json(observed: Observed, checked: list[Checked], program: str) -> dict[str, Any]:
    """Everything that was seen, and what it means.

    Args:
        observed: What was seen.
        checked: What it came to.
        program: Pilotlight's version.
    """
    bounds = clock_offset(observed.stamps)
    return {
        "format": FORMAT,
        "pilotlight": program,
        "at": datetime.fromtimestamp(observed.now, UTC).isoformat(timespec="seconds"),
        "upstream": {
            **_contact(observed.upstream),
            "version": observed.version or None,
            "clock_ahead_s": None if bounds is None else {"least": round(bounds[0], 3), "most": round(bounds[1], 3)},
        },
        "via": None if observed.via is None else _contact(observed.via),
        "admin": None
        if observed.admin is None
        else {**_contact(observed.admin.contact), "is_pilotlight": observed.admin.is_there},
        "environment": dict(observed.environ),
        "kept": [model.name for model in observed.settings.models],
        "resident": [resident_row(observed, row) for row in observed.running or ()],
        "stored": None if observed.stored is None else len(observed.stored),
        "not_described": observed.undescribed,
        "streams": [
            _stream(way, stream)
            for way, stream in (("direct", observed.direct), ("via", observed.through))
            if stream is not None
        ],
        "parallel": None
        if len(observed.spans) < 2
        else {"asked": observed.asked_at_once, "seen": at_once(observed.spans)},
        "watched_s": round(observed.watched[-1].at - observed.watched[0].at, 1) if len(observed.watched) > 1 else 0,
        "changes": [
            {"kind": change.kind.value, "model": change.model, "by": change.by}
            for change in changes(observed.watched, ahead_s(observed))
        ],
        "checks": [
            {
                "number": each.number,
                "name": each.name,
                "outcome": "skipped" if each.skipped else "findings" if each.findings else "ok",
                "why": each.skipped,
            }
            for each in checked
        ],
        "findings": [
            {
                "code": finding.code,
                "severity": finding.severity.value,
                "subject": finding.subject,
                "title": finding.title,
                "evidence": finding.evidence,
                "basis": finding.basis.value,
                "cost": finding.cost,
                "remedy": finding.remedy,
                "figures": dict(finding.figures),
            }
            for finding in all_findings(checked)
        ],
    }


def resident_row(observed: Observed, row: RunningModel) -> dict[str, Any]:
    """One loaded model."""
    left = expires_in_s(row, observed.now, ahead_s(observed))
    stays = keep_alive_s(observed)
    is_streamed = observed.direct is not None and observed.weights(observed.direct.model) == observed.weights(row.name)
    return {
        "name": row.name,
        "size_bytes": row.size_bytes,
        "vram_bytes": row.vram_bytes,
        "vram_share": round(row.vram_bytes / row.size_bytes, 3) if row.size_bytes else None,
        "context_length": row.context_length or None,
        "pinned": left is not None and math.isinf(left),
        "expires_in_s": None if left is None or math.isinf(left) else round(left, 1),
        "keep_alive_s": round(stays, 1) if is_streamed and stays is not None and math.isfinite(stays) else None,
    }


def _contact(contact: Contact) -> dict[str, Any]:
    return {
        "url": contact.url,
        "reached": contact.reached.name.lower(),
        "status": contact.status or None,
        "server": contact.server,
        "took_ms": round(contact.took_s * 1000, 3),
    }


def _stream(way: str, stream: Stream) -> dict[str, Any]:
    measured = stream.measured
    row: dict[str, Any] = {"way": way, "url": stream.url, "model": stream.model, "error": stream.error}
    if measured is None:
        return row
    held, load = held_s(measured), measured.duration_s("load_duration")
    return {
        **row,
        "tokens": len(measured.arrivals_s),
        "first_token_ms": round(measured.first_token_s * 1000, 3),
        "total_ms": round(measured.total_s * 1000, 3),
        "arrived_within_ms": round((measured.arrivals_s[-1] - measured.arrivals_s[0]) * 1000, 3),
        "held_ms": None if held is None else round(held * 1000, 3),
        "load_ms": None if load is None else round(load * 1000, 3),
        "held_back": measured.is_held_back,
    }
