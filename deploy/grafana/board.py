"""One dashboard: panels from left to right, with everything that Grafana does not set by itself.

Left to their defaults, panels have no id, targets no refId and legends are off, so a panel is only made here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Self

from grafana_foundation_sdk.builders import bargauge, common, dashboard, heatmap, stat, statetimeline, timeseries
from grafana_foundation_sdk.builders import table as table_panel
from grafana_foundation_sdk.models import common as commons
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from deploy.grafana.looks import NO_TRAFFIC, PLAIN, Steps, legend, mappings, thresholds, tooltip
from deploy.grafana.promql import INSTANCE
from deploy.grafana.sources import SOURCE, Query, events, target, variable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

COLUMNS: Final = 24


class Board:
    """Collects panels, and says where each stands.

    Args:
        uid: In the dashboard's address; links keep working as long as it stays.
        title: With the product's name in front, as Grafana lists all dashboards together.
        description: One sentence.
        has_model: Whether its queries can be narrowed to models.
        has_events: Whether reloads of models and settings are drawn into its graphs.
    """

    def __init__(
        self, uid: str, title: str, description: str, *, has_model: bool = True, has_events: bool = True
    ) -> None:
        self.uid = uid
        self._x = self._y = self._tallest = self._last_id = 0
        self._built = (
            dashboard.Dashboard(title)
            .uid(uid)
            .description(description)
            .tags(["pilotlight"])
            .editable()
            .tooltip(models.DashboardCursorSync.CROSSHAIR)
            .time("now-1h", "now")
            .timezone("browser")
            .refresh("30s")
            .annotations([])
            .link(
                dashboard.DashboardLink("Pilotlight")
                .type(models.DashboardLinkType.DASHBOARDS)
                .tags(["pilotlight"])
                .include_vars(True)
                .keep_time(True)
            )
            .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus").regex(""))
        )
        if has_events:
            self._built = self._built.with_variable(variable("instance", "Instance", "pilotlight_build_info"))
            for event in events():
                self._built = self._built.annotation(event)
        if has_model:
            self._built = self._built.with_variable(
                variable("model", "Model", f"llm_call_duration_seconds_count{{{INSTANCE}}}")
            )

    def build(self) -> models.Dashboard:
        return self._built.build()

    def variable(self, name: str, label: str, series: str) -> Self:
        """A choice among the values of a label."""
        self._built = self._built.with_variable(variable(name, label, series))
        return self

    # --- places ---

    def row(self, title: str) -> Self:
        """A heading; what follows stands below it."""
        self._break()
        place = models.GridPos(h=1, w=COLUMNS, x=0, y=self._y)
        self._built = self._built.with_row(dashboard.Row(title).id(self._next_id()).grid_pos(place).datasource(SOURCE))
        self._y += 1
        return self

    def _break(self) -> None:
        self._y += self._tallest
        self._x = self._tallest = 0

    def _place(self, width: int, height: int) -> models.GridPos:
        if self._x + width > COLUMNS:
            self._break()
        place = models.GridPos(h=height, w=width, x=self._x, y=self._y)
        self._x += width
        self._tallest = max(self._tallest, height)
        return place

    def _next_id(self) -> int:
        self._last_id += 1
        return self._last_id

    # --- panels ---

    def tile(
        self,
        title: str,
        query: str,
        unit: str,
        text: str,
        *,
        steps: Steps = PLAIN,
        words: Mapping[float, tuple[str, str]] | None = None,
        none: str = NO_TRAFFIC,
        now: bool = False,
        width: int = 3,
        decimals: int | None = None,
    ) -> Self:
        """One number.

        Args:
            words: What to show in place of a value, and in which colour.
            none: Shown where there is no value.
            now: The value of this moment with its course behind it; else one value for all that is shown.
        """
        panel = (
            stat.Panel()
            .title(title)
            .description(text)
            .id(self._next_id())
            .grid_pos(self._place(width, 4))
            .datasource(SOURCE)
            .unit(unit)
            .no_value(none)
            .mappings(mappings(words, none))
            .thresholds(thresholds(steps))
            .color_scheme(dashboard.FieldColor().mode(models.FieldColorModeId.THRESHOLDS))
            .color_mode(commons.BigValueColorMode.BACKGROUND if steps is not PLAIN else commons.BigValueColorMode.VALUE)
            .graph_mode(commons.BigValueGraphMode.AREA if now and not words else commons.BigValueGraphMode.NONE)
            .text_mode(commons.BigValueTextMode.VALUE)
            .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).fields("").values(False))
            .with_target(target(Query(query, title), 0, instant=not now))
        )
        if decimals is not None:
            panel = panel.decimals(decimals)
        self._built = self._built.with_panel(panel)
        return self

    def graph(
        self,
        title: str,
        queries: Sequence[Query],
        unit: str,
        text: str,
        *,
        steps: Steps | None = None,
        stacked: bool = False,
        colours: Mapping[str, str] | None = None,
        top: float | None = None,
        logarithmic: bool = False,
        width: int = 12,
        none: str = NO_TRAFFIC,
    ) -> Self:
        """Lines over time.

        Args:
            steps: Limits, drawn as dashed lines.
            stacked: Areas upon each other: parts of a whole.
            colours: By the text of a legend.
            top: The largest value that is possible.
        """
        panel = (
            timeseries.Panel()
            .title(title)
            .description(text)
            .id(self._next_id())
            .grid_pos(self._place(width, 8))
            .datasource(SOURCE)
            .unit(unit)
            .no_value(none)
            .mappings(mappings(None, none))
            .line_width(1 if stacked else 2)
            .fill_opacity(60 if stacked else 8)
            .gradient_mode(commons.GraphGradientMode.NONE if stacked else commons.GraphGradientMode.OPACITY)
            .show_points(commons.VisibilityMode.AUTO)
            .legend(legend())
            .tooltip(tooltip())
            .color_scheme(dashboard.FieldColor().mode(models.FieldColorModeId.PALETTE_CLASSIC))
        )
        if not logarithmic:
            panel = panel.min(0)
        else:
            panel = panel.scale_distribution(
                common.ScaleDistributionConfig().type(commons.ScaleDistribution.LOG).log(10)
            )
        if top is not None:
            panel = panel.max(top)
        if stacked:
            panel = panel.stacking(common.StackingConfig().mode(commons.StackingMode.NORMAL).group("A"))
        if steps is not None:
            panel = panel.thresholds(thresholds(steps)).thresholds_style(
                common.GraphThresholdsStyleConfig().mode(commons.GraphThresholdsStyleMode.DASHED)
            )
        for name, colour in (colours or {}).items():
            panel = panel.with_override(
                models.MatcherConfig("byName", name),
                [models.DynamicConfigValue("color", {"mode": "fixed", "fixedColor": colour})],
            )
        for place, query in enumerate(queries):
            panel = panel.with_target(target(query, place))
        self._built = self._built.with_panel(panel)
        return self

    def heat(self, title: str, expr: str, unit: str, text: str, *, width: int = 24) -> Self:
        """How many observations fell into each bucket."""
        query = target(Query(expr, "{{le}}"), 0).format(PromQueryFormat.HEATMAP)
        self._built = self._built.with_panel(
            heatmap.Panel()
            .title(title)
            .description(text)
            .id(self._next_id())
            .grid_pos(self._place(width, 9))
            .datasource(SOURCE)
            .unit(unit)
            .no_value(NO_TRAFFIC)
            .calculate(False)
            .color(heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Oranges").steps(64))
            .filter_values(heatmap.FilterValueRange().le(1e-9))
            .y_axis(heatmap.YAxisConfig().unit(unit).axis_placement(commons.AxisPlacement.LEFT))
            .cell_gap(1)
            .show_legend()
            .with_target(query)
        )
        return self

    def timeline(
        self,
        title: str,
        query: Query,
        text: str,
        words: Mapping[float, tuple[str, str]],
        *,
        width: int = 12,
        none: str,
    ) -> Self:
        """One bar per series, coloured by what it is at each moment."""
        self._built = self._built.with_panel(
            statetimeline.Panel()
            .title(title)
            .description(text)
            .id(self._next_id())
            .grid_pos(self._place(width, 8))
            .datasource(SOURCE)
            .unit("none")
            .no_value(none)
            .mappings(mappings(words, none))
            .thresholds(thresholds(PLAIN))
            .color_scheme(dashboard.FieldColor().mode(models.FieldColorModeId.THRESHOLDS))
            .merge_values(True)
            .show_value(commons.VisibilityMode.AUTO)
            .row_height(0.8)
            .fill_opacity(85)
            .legend(legend(as_table=False))
            .tooltip(tooltip())
            .with_target(target(query, 0))
        )
        return self

    def bars(
        self,
        title: str,
        query: Query,
        unit: str,
        text: str,
        *,
        steps: Steps = PLAIN,
        width: int = 12,
        none: str = NO_TRAFFIC,
    ) -> Self:
        """One bar per series, for all that is shown."""
        self._built = self._built.with_panel(
            bargauge.Panel()
            .title(title)
            .description(text)
            .id(self._next_id())
            .grid_pos(self._place(width, 8))
            .datasource(SOURCE)
            .unit(unit)
            .min(0)
            .no_value(none)
            .mappings(mappings(None, none))
            .thresholds(thresholds(steps))
            .color_scheme(dashboard.FieldColor().mode(models.FieldColorModeId.THRESHOLDS))
            .orientation(commons.VizOrientation.HORIZONTAL)
            .display_mode(commons.BarGaugeDisplayMode.GRADIENT)
            .show_unfilled(True)
            .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).fields("").values(False))
            .with_target(target(query, 0, instant=True))
        )
        return self

    def table(self, title: str, expr: str, text: str, *, hidden: Sequence[str], width: int = 12, none: str) -> Self:
        """Labels of series, one row each."""
        query = target(Query(expr), 0, instant=True).format(PromQueryFormat.TABLE)
        self._built = self._built.with_panel(
            table_panel.Panel()
            .title(title)
            .description(text)
            .id(self._next_id())
            .grid_pos(self._place(width, 6))
            .datasource(SOURCE)
            .unit("none")
            .no_value(none)
            .with_transformation(
                models.DataTransformerConfig(
                    id_val="organize", options={"excludeByName": dict.fromkeys(["Time", "Value", *hidden], True)}
                )
            )
            .with_target(query)
        )
        return self
