"""Which figures are judged, and when a run as a whole is a failure. Pure.

The limits are those of the performance guides for local models: a first call within 2 s, later ones within 500 ms, P50
below 420 ms and P95 below 740 ms, a variance below half of the mean, and the whole model in the memory of the graphics
card. Beside them two of Pilotlight's own: an idle gap costs at most a tenth of a warm call, and other options cost no
load.
"""

from __future__ import annotations

import enum
import statistics
from typing import TYPE_CHECKING, Final

from proxy.bench.results import target
from proxy.bench.statistics import ttfts

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from proxy.bench.results import ModelInfo, Run, Side, Target, Workload

FIRST_MS: Final = 2000.0
LATER_MS: Final = 500.0
P50_MS: Final = 420.0
P95_MS: Final = 740.0
VARIANCE_PERCENT: Final = 50.0
# "All of it" cannot be "below" anything; a layer is more than this.
OUTSIDE_PERCENT: Final = 0.1
IDLE_TIMES: Final = 1.1
_LOADS: Final = 1.0


class FailOn(enum.StrEnum):
    """What makes the exit code 1."""

    NEVER = "never"
    ERRORS = "errors"
    SLOWER = "slower"
    TARGETS = "targets"


def targets_of(name: str, side: Side, model: ModelInfo | None, done: Mapping[str, Workload]) -> list[Target]:
    """Judge one workload.

    Args:
        name: The workload's.
        side: The one that is judged: by way of the proxy, where there is one.
        model: For what is in the graphics card's memory.
        done: The workloads before it, by name.
    """
    if name == "warm":
        return [*_of_warm(side), in_vram(model)]
    if name == "idle" and "warm" in done:
        warm = ttfts(sample for sample in done["warm"].direct.samples if sample.call > 1)
        idle = side.figures.ttft
        value = idle.p50_s.value / statistics.median(warm) if idle is not None and warm else None
        return [target("first token after an idle gap, of a warm direct one (p50)", IDLE_TIMES, "times", value)]
    if name == "mixed-options":
        return [target("loads caused by other options", _LOADS, "loads", side.loads)]
    return []


def _of_warm(side: Side) -> list[Target]:
    first = [s.ttft_s for s in side.samples if s.call == 1 and s.error is None and s.ttft_s is not None]
    later = ttfts(sample for sample in side.samples if sample.call > 1)
    ttft = side.figures.ttft
    return [
        target("first call", FIRST_MS, "ms", max(first) * 1e3 if first else None),
        target("later calls (mean)", LATER_MS, "ms", sum(later) / len(later) * 1e3 if later else None),
        target("p50", P50_MS, "ms", ttft.p50_s.value * 1e3 if ttft is not None else None),
        target("p95", P95_MS, "ms", ttft.p95_s.value * 1e3 if ttft is not None else None),
        target("variance", VARIANCE_PERCENT, "%", ttft.variance_percent.value if ttft is not None else None),
    ]


def in_vram(model: ModelInfo | None) -> Target:
    """Whether the whole model is in the memory of the graphics card."""
    share = None
    if model is not None and model.memory_bytes and model.vram_bytes is not None:
        share = 100 * (1 - min(1.0, model.vram_bytes / model.memory_bytes))
    return target("part of the model outside of VRAM", OUTSIDE_PERCENT, "%", share)


def failures(run: Run, fail_on: Collection[FailOn]) -> list[str]:
    """What of this run is a failure, a line each; empty where nothing is.

    ``errors``: a call that counts was not answered. ``slower``: on some workload the whole interval of the ratio of the
    means is below 1. ``targets``: some target was not met; one without a value does not count.
    """
    found = []
    for workload in run.workloads:
        for name, side in (("direct", workload.direct), ("via", workload.via)):
            if FailOn.ERRORS in fail_on and side.figures.errors:
                found.append(
                    f"{workload.name}: {side.figures.errors} of {side.figures.calls} calls {name} had no answer"
                )
        high = workload.ratio.mean.high if workload.ratio is not None else None
        if FailOn.SLOWER in fail_on and high is not None and high < 1:
            found.append(f"{workload.name}: the first token comes later by way of the proxy (at best {high:.2f} times)")
        if FailOn.TARGETS in fail_on:
            found += [f"{workload.name}: {_missed(each)}" for each in workload.targets if each.verdict == "fail"]
    for result in run.models.models if run.models is not None else ():
        if FailOn.ERRORS in fail_on and result.error is not None:
            found.append(f"{result.model.name}: {result.error}")
        if FailOn.TARGETS in fail_on:
            found += [f"{result.model.name}: {_missed(each)}" for each in result.targets if each.verdict == "fail"]
    return found


def _missed(judged: Target) -> str:
    return f"{judged.what}: {judged.value or 0:.4g} {judged.unit} is not below {judged.limit:g} {judged.unit}"
