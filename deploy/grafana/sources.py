"""Where panels, variables and events get their values: queries of the data source that is chosen."""

from __future__ import annotations

from typing import Final, NamedTuple

from grafana_foundation_sdk.builders import dashboard, prometheus
from grafana_foundation_sdk.models import common as commons
from grafana_foundation_sdk.models import dashboard as models

from deploy.grafana.looks import BLUE, RED
from deploy.grafana.promql import INSTANCE

SOURCE: Final = commons.DataSourceRef(type_val="prometheus", uid="${datasource}")


class Query(NamedTuple):
    """One query of a panel.

    Attributes:
        expr: PromQL.
        legend: With labels as ``{{model}}``.
    """

    expr: str
    legend: str = ""


def target(query: Query, place: int, *, instant: bool = False) -> prometheus.Dataquery:
    target = (
        prometheus.Dataquery()
        .datasource(SOURCE)
        .ref_id(chr(ord("A") + place))
        .expr(query.expr)
        .legend_format(query.legend)
    )
    return target.instant() if instant else target.range()


def variable(name: str, label: str, series: str) -> dashboard.QueryVariable:
    query = f"label_values({series}, {name})"
    everything = models.VariableOption(selected=True, text="All", value="$__all")
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(SOURCE)
        .query(query)
        .definition(query)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(everything)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
    )


def events() -> list[dashboard.AnnotationQuery]:
    """What makes the next first tokens slow or different: models that are loaded again, settings that are read."""
    again = f"sum by (model, cause) (increase(pilotlight_model_reloads_total{{{INSTANCE}}}[1m])) > 0"
    read = f"pilotlight_config_last_reload_timestamp_seconds{{{INSTANCE}}} * 1000"
    return [
        dashboard.AnnotationQuery()
        .name("Models loaded again")
        .datasource(SOURCE)
        .enable(True)
        .icon_color(RED)
        .expr(again)
        .step("60s")
        .title_format("Model loaded again")
        .text_format("{{model}}: {{cause}}")
        .tag_keys("cause"),
        dashboard.AnnotationQuery()
        .name("Settings read")
        .datasource(SOURCE)
        .enable(True)
        .icon_color(BLUE)
        .expr(read)
        .step("60s")
        .use_value_for_time(True)
        .title_format("Settings read")
        .text_format("{{instance}}"),
    ]
