"""Which series there are, with which labels; and what a query asks for that nobody has."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import promql_parser as promql
import yaml
from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector

from proxy.observe import labels
from proxy.observe.families import Families

RULES: Final = Path(__file__).parent.parent.parent / "deploy" / "prometheus" / "rules"

# Labels that Prometheus adds to every series.
_SCRAPED: Final = frozenset({"job", "instance"})
# Series of Prometheus's own.
_ALERTS: Final = {"ALERTS": frozenset({"alertname", "alertstate", "severity", *_SCRAPED}), "up": _SCRAPED}
# What the exporter of docker-compose.gpu.yml has, as far as it is asked (NVIDIA/dcgm-exporter, default-counters.csv).
_GPU: Final = {
    f"DCGM_FI_DEV_{name}": frozenset({"gpu", "modelName", *_SCRAPED})
    for name in ("FB_USED", "FB_FREE", "GPU_UTIL", "GPU_TEMP", "POWER_USAGE", "SM_CLOCK")
}
# A closed label may only be compared with what it can be.
_CLOSED: Final[dict[str, set[str]]] = {
    "start": {"warm", "cold", "unknown"},
    "type": {"input", "output"},
    "status": {"ok", "client_error", "upstream_error", "timeout", "cancelled", "rejected"},
    "cache": set(labels.CACHES),
    "state": {*labels.MODEL_STATES, *labels.SLOT_STATES, *labels.CONNECTION_STATES},
    "action": set(labels.REWRITE_ACTIONS),
    "priority": set(labels.PRIORITIES),
    "cause": set(labels.RELOAD_CAUSES),
    "reason": {*labels.REJECT_REASONS, *labels.FAILURE_REASONS},
    "alertstate": {"firing"},
}


def _exposed() -> dict[str, frozenset[str]]:
    """What the registry of an application has, and the process beside it."""
    known: dict[str, frozenset[str]] = {}
    for family in Families(CollectorRegistry()).listing:
        names = frozenset(family.labels) | _SCRAPED
        if family.kind == "histogram":
            known[f"{family.name}_bucket"] = names | {"le"}
            known[f"{family.name}_count"] = known[f"{family.name}_sum"] = names
        else:
            known[family.name] = names
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)
    for metric in registry.collect():
        for sample in metric.samples:
            known[sample.name] = frozenset(sample.labels) | _SCRAPED
    return known


def _recorded() -> dict[str, frozenset[str]]:
    """What the recording rules add; the first part of a name says which labels are left."""
    groups = yaml.safe_load((RULES / "recording.yml").read_text(encoding="utf-8"))["groups"]
    names = [rule["record"] for group in groups for rule in group["rules"]]
    return {name: frozenset(name.partition(":")[0].split("_")) | _SCRAPED for name in names}


EXPOSED: Final = _exposed()
RECORDED: Final = _recorded()
KNOWN: Final = {**EXPOSED, **RECORDED, **_ALERTS, **_GPU}


class Reading:
    """One query, read.

    Attributes:
        names: Of the series that it asks for.
        labels: That its result may have.
        wrong: Series, labels and values that it asks for and nobody has.
    """

    def __init__(self, expr: str) -> None:
        self.names: set[str] = set()
        self.wrong: list[str] = []
        self.labels = self._read(promql.parse(expr))

    def _read(self, node: promql.Expr) -> frozenset[str]:
        match node:
            case promql.VectorSelector():
                return self._selected(node)
            case promql.MatrixSelector():
                return self._selected(node.vector_selector)
            case promql.ParenExpr() | promql.UnaryExpr() | promql.SubqueryExpr():
                return self._read(node.expr)
            case promql.AggregateExpr():
                return self._grouped(self._read(node.expr), node.modifier)
            case promql.BinaryExpr():
                return self._combined(node)
            case promql.Call():
                found = frozenset().union(*(self._read(argument) for argument in node.args))
                return found - {"le"} if node.func.name == "histogram_quantile" else found
            case _:
                return frozenset()

    def _selected(self, node: promql.VectorSelector) -> frozenset[str]:
        self.names.add(node.name)
        have = KNOWN.get(node.name)
        if have is None:
            self.wrong.append(f"no series {node.name}")
            return frozenset()
        for matcher in node.matchers.matchers:
            if matcher.name not in have:
                self.wrong.append(f"{node.name} has no label {matcher.name}")
            if matcher.name in _CLOSED and not set(matcher.value.split("|")) <= _CLOSED[matcher.name]:
                self.wrong.append(f"{matcher.name} is never {matcher.value}")
        return have

    def _grouped(self, have: frozenset[str], modifier: promql.AggModifier | None) -> frozenset[str]:
        if modifier is None:
            return frozenset()
        self.wrong += [f"there is no {label} to sum by" for label in modifier.labels if label not in have]
        return frozenset(modifier.labels)

    def _combined(self, node: promql.BinaryExpr) -> frozenset[str]:
        left, right = self._read(node.lhs), self._read(node.rhs)
        matching = node.modifier.matching if node.modifier is not None else None
        for label in matching.labels if matching is not None else ():
            if label not in left & right:
                self.wrong.append(f"not both sides have {label}")
        return left or right
