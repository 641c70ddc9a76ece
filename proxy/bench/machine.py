"""Where the benchmark runs, for its results."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from proxy.bench.results import Machine


def look() -> Machine:
    """The machine that this program runs on; what the system does not tell is left out."""
    return Machine(
        cpu=_cpu(),
        cores=_cores(),
        memory_bytes=_memory_bytes(),
        os=platform.platform(),
        python=f"{platform.python_implementation()} {platform.python_version()}",
    )


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def _cores() -> int:
    # macOS has no affinity.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None
