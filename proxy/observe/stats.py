"""Percentiles of the last calls, for ``/stats``.

What must live here: bounded windows of measurements, and the arithmetic over them. Per model the last ``WINDOW`` calls
count, however long ago they were; totals count from the start of the process. Prometheus has the long history.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from typing import TYPE_CHECKING, Any

from proxy.observe.timeline import REUSED_CACHE, Start, start, total_s, ttft_s

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from proxy.observe.timeline import Timeline

WINDOW = 1000
"""Calls per model that percentiles are made of: enough for a P95 that rests on 50 values."""


MOST_MODELS = 64
"""Labels are bounded at any moment but change over weeks; the window that was not written to for longest goes."""


class Stats:
    """Windows per model. The label comes from the metrics, whose rules bound how many there can be at a time.

    Args:
        window: Calls per model.
    """

    def __init__(self, window: int = WINDOW) -> None:
        self._window = window
        self._models: dict[str, _Window] = {}
        self._keys: dict[str, _Usage] = {}

    def __repr__(self) -> str:
        return f"<Stats models={len(self._models)} window={self._window}>"

    def add(self, label: str, t: Timeline) -> None:
        """Note a finished call."""
        window = self._models.pop(label, None)
        if window is None:
            window = _Window(self._window)
            if len(self._models) >= MOST_MODELS:
                del self._models[next(iter(self._models))]
        # At the end again: the first one is the one that was not written to for longest.
        self._models[label] = window
        window.add(t)
        if t.key:
            self._keys.setdefault(t.key, _Usage()).add(t)

    def snapshot(self) -> dict[str, Any]:
        """Figures per model: counts since the start, and summaries of the window in seconds.

        May run in a thread while calls are added: each collection is copied by one call that nothing interrupts.
        """
        windows = list(self._models.items())
        return {
            "window": self._window,
            "models": {label: window.snapshot() for label, window in sorted(windows, key=_label)},
            "keys": {name: usage.snapshot() for name, usage in sorted(self._keys.items())},
        }


class _Usage:
    """What was asked for with one key, since the start."""

    def __init__(self) -> None:
        self._calls = self._tokens_in = self._tokens_out = 0

    def add(self, t: Timeline) -> None:
        self._calls += 1
        if not t.reused:
            self._tokens_in += t.prompt_eval_count or 0
            self._tokens_out += t.eval_count or 0

    def snapshot(self) -> dict[str, int]:
        return {"calls": self._calls, "tokens_in": self._tokens_in, "tokens_out": self._tokens_out}


class _Window:
    def __init__(self, size: int) -> None:
        self._totals: deque[float] = deque(maxlen=size)
        self._first_tokens: deque[tuple[float, Start]] = deque(maxlen=size)
        self._calls = 0
        self._outcomes: Counter[str] = Counter()
        self._starts: Counter[str] = Counter()

    def add(self, t: Timeline) -> None:
        self._calls += 1
        self._outcomes[t.outcome.value] += 1
        whole_s, first_s = total_s(t), ttft_s(t)
        if whole_s is not None:
            self._totals.append(whole_s)
        if first_s is not None and t.reused != REUSED_CACHE:
            kind = start(t)
            self._starts[kind.value] += 1
            self._first_tokens.append((first_s, kind))

    def snapshot(self) -> dict[str, Any]:
        first_tokens = list(self._first_tokens)
        return {
            "calls": self._calls,
            "outcomes": dict(self._outcomes),
            "starts": dict(self._starts),
            "ttft": summary([value for value, _ in first_tokens]),
            "ttft_warm": summary([value for value, kind in first_tokens if kind is Start.WARM]),
            "ttft_cold": summary([value for value, kind in first_tokens if kind is Start.COLD]),
            "total": summary(list(self._totals)),
        }


def _label(item: tuple[str, _Window]) -> str:
    return item[0]


def summary(values: Iterable[float]) -> dict[str, float | int] | None:
    """Count, mean, variance, percentiles and extremes of some seconds; ``None`` of nothing.

    The variance is that of these values, not an estimate for others (divided by n). ``stddev_percent`` is the standard
    deviation as a percentage of the mean.
    """
    ordered = sorted(values)
    if not ordered:
        return None
    mean = math.fsum(ordered) / len(ordered)
    variance = math.fsum((value - mean) ** 2 for value in ordered) / len(ordered)
    return {
        "count": len(ordered),
        "mean_s": round(mean, 6),
        "variance_s2": round(variance, 9),
        "stddev_percent": round(100 * math.sqrt(variance) / mean, 2) if mean > 0 else 0.0,
        "p50_s": round(percentile(ordered, 50), 6),
        "p90_s": round(percentile(ordered, 90), 6),
        "p95_s": round(percentile(ordered, 95), 6),
        "min_s": round(ordered[0], 6),
        "max_s": round(ordered[-1], 6),
    }


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Linear interpolation between the two nearest of some sorted values; there is at least one."""
    position = (len(ordered) - 1) * percent / 100
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)
