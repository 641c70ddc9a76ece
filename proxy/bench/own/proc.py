"""What Linux tells about a running program: processor time and memory, of it and of what it started."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_PROC = Path("/proc")


def family(pid: int) -> tuple[int, ...]:
    """A process and all that descend from it, as nginx's workers from its master."""
    children: dict[int, list[int]] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            fields = _stat(int(entry.name))
            if fields:
                children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [pid]
    for member in found:
        found += children.get(member, [])
    return tuple(found)


def cpu_s(pids: Iterable[int]) -> float:
    """User and system time so far, of the threads that are there, as exactly as the kernel tells.

    That is in nanoseconds as a rule (``schedstat``), else in ticks, of 10 ms each for user and system time.
    """
    return sum(_scheduled_s(pid) or _ticked_s(pid) for pid in pids)


def rss_kib(pids: Iterable[int]) -> int:
    """Resident memory. What processes share is counted for each of them."""
    total = 0
    for pid in pids:
        try:
            lines = (_PROC / str(pid) / "status").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
    return total


def _scheduled_s(pid: int) -> float:
    """From ``/proc/<pid>/task/*/schedstat`` (Linux, sched-stats.rst); 0 where the kernel keeps none."""
    spent_ns = 0
    for stat in (_PROC / str(pid) / "task").glob("*/schedstat"):
        # A thread may have ended meanwhile.
        with contextlib.suppress(OSError):
            spent_ns += int(stat.read_text().split()[0])
    return spent_ns / 1e9


def _ticked_s(pid: int) -> float:
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") if fields else 0.0


def _stat(pid: int) -> list[str]:
    """The fields of ``/proc/<pid>/stat`` from the third on (proc(5)); empty for a process that is gone."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return []
    # The second field is the program's name in brackets, and may hold anything.
    return text.rpartition(")")[2].split()
