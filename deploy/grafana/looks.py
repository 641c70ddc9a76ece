"""Colours, limits and legends, the same on every panel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from grafana_foundation_sdk.builders import common, dashboard
from grafana_foundation_sdk.models import common as commons
from grafana_foundation_sdk.models import dashboard as models

if TYPE_CHECKING:
    from collections.abc import Mapping

GREEN, ORANGE, RED, BLUE, PURPLE, GREY = "green", "orange", "red", "blue", "purple", "#8e8e8e"

Steps = tuple[tuple[float | None, str], ...]
"""From which value on which colour; the first begins at ``None``, minus infinity."""

WARM: Final[Steps] = ((None, GREEN), (0.4, ORANGE), (0.5, RED))
"""The goal for a first token of a loaded model is 500 ms."""
COLD: Final[Steps] = ((None, GREEN), (1.5, ORANGE), (2.0, RED))
"""The goal for one that has to wait for its model is 2 s."""
GOALS: Final[Steps] = ((None, GREEN), (0.5, ORANGE), (2.0, RED))
SHARE_MET: Final[Steps] = ((None, RED), (0.9, ORANGE), (0.95, GREEN))
SHARE_FAILED: Final[Steps] = ((None, GREEN), (0.01, ORANGE), (0.05, RED))
PLAIN: Final[Steps] = ((None, BLUE),)

NO_TRAFFIC: Final = "No traffic"


def mappings(words: Mapping[float, tuple[str, str]] | None, none: str) -> list[models.ValueMapping]:
    nothing = models.SpecialValueMap(
        models.DashboardSpecialValueMapOptions(
            models.SpecialValueMatch.NULL_AND_NAN, models.ValueMappingResult(text=none, color=GREY, index=0)
        )
    )
    if not words:
        return [nothing]
    named = {
        f"{value:g}": models.ValueMappingResult(text=text, color=colour, index=index)
        for index, (value, (text, colour)) in enumerate(words.items(), 1)
    }
    return [nothing, models.ValueMap(named)]


def thresholds(steps: Steps) -> dashboard.ThresholdsConfig:
    return (
        dashboard.ThresholdsConfig()
        .mode(models.ThresholdsMode.ABSOLUTE)
        .steps([models.Threshold(value, colour) for value, colour in steps])
    )


def legend(*, as_table: bool = True) -> common.VizLegendOptions:
    mode = commons.LegendDisplayMode.TABLE if as_table else commons.LegendDisplayMode.LIST
    return (
        common.VizLegendOptions()
        .show_legend(True)
        .display_mode(mode)
        .placement(commons.LegendPlacement.BOTTOM)
        .calcs(["mean", "max", "lastNotNull"] if as_table else [])
    )


def tooltip() -> common.VizTooltipOptions:
    return common.VizTooltipOptions().mode(commons.TooltipDisplayMode.MULTI).sort(commons.SortOrder.DESCENDING)
