"""The few shapes that every query has. A window is Grafana's own variable, so that it fits what is shown."""

from __future__ import annotations

from typing import Final

INSTANCE: Final = 'instance=~"$instance"'
MODEL: Final = f'{INSTANCE}, model=~"$model"'
WINDOW: Final = "$__rate_interval"
RANGE: Final = "$__range"
"""All that the dashboard shows: for one number that a moment without traffic must not empty."""


def rate(metric: str, where: str = INSTANCE, by: str = "", window: str = WINDOW) -> str:
    """Per second, summed over everything but ``by``."""
    return f"sum{_by(by)} (rate({metric}{{{where}}}[{window}]))"


def increase(metric: str, where: str = INSTANCE, by: str = "", window: str = WINDOW) -> str:
    """How many in the window, summed over everything but ``by``."""
    return f"sum{_by(by)} (increase({metric}{{{where}}}[{window}]))"


def total(metric: str, where: str = INSTANCE, by: str = "") -> str:
    """A gauge, summed over everything but ``by``."""
    return f"sum{_by(by)} ({metric}{{{where}}})"


def quantile(q: float, histogram: str, where: str = INSTANCE, by: str = "", window: str = WINDOW) -> str:
    """What a share ``q`` of the observations stays below, within the width of a bucket."""
    labels = ", ".join(filter(None, (by, "le")))
    return f"histogram_quantile({q:g}, sum by ({labels}) (rate({histogram}_bucket{{{where}}}[{window}])))"


def within(bound: str, histogram: str, where: str = INSTANCE, window: str = WINDOW) -> str:
    """Share of the observations up to ``bound``, which has to be the end of a bucket, as the page writes it."""
    return share(
        rate(f"{histogram}_bucket", f'{where}, le="{bound}"', window=window),
        rate(f"{histogram}_count", where, window=window),
    )


def share(part: str, whole: str) -> str:
    """One as a share of the other, and nothing where there is no other: that would be NaN."""
    return f"{part} / ({whole} > 0)"


def _by(labels: str) -> str:
    return f" by ({labels})" if labels else ""
