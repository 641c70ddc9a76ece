"""The committed dashboards, read back: their panels, and their queries with Grafana's variables filled in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER: Final = Path(__file__).parent.parent.parent / "deploy" / "grafana" / "dashboards"
BOARDS: Final = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json"))}

# Not executed by any test: no exporter of these runs here. They are parsed.
UNEXECUTED: Final = ("pilotlight-gpu",)


class Asked(NamedTuple):
    """One query of a dashboard; ``where`` names panel and refId."""

    where: str
    expr: str
    instant: bool


def panels(board: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """All but the headings."""
    for panel in board["panels"]:
        if panel["type"] == "row":
            yield from panel.get("panels", [])
        else:
            yield panel


def queries(board: dict[str, Any]) -> Iterator[Asked]:
    """What its panels and annotations ask, as written."""
    for panel in panels(board):
        for target in panel["targets"]:
            yield Asked(f"{panel['title']} {target['refId']}", target["expr"], bool(target.get("instant")))
    for annotation in board["annotations"]["list"]:
        yield Asked(f"annotation {annotation['name']}", annotation["expr"], False)


def choices(board: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Label and series of each variable that asks for values."""
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            call = variable["query"]
            series, _, label = call.removeprefix("label_values(").removesuffix(")").rpartition(", ")
            yield label, series


def filled(expr: str, *, window: str = "5s", whole: str = "1h", step: str = "1s") -> str:
    """With Grafana's variables as it would fill them in, everything chosen."""
    for name, value in {
        "$__rate_interval": window,
        "$__range": whole,
        "$__interval": step,
        "$instance": ".*",
        "$model": ".*",
        "$gpu": ".*",
    }.items():
        expr = expr.replace(name, value)
    assert "$" not in expr, expr
    return expr
