"""The committed dashboards are what their code makes, whole, and ask for nothing that does not exist."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from deploy.grafana.board import COLUMNS
from deploy.grafana.write import dashboards
from proxy.observe.families import Families
from tests.deploy.panels import BOARDS, FOLDER, UNEXECUTED, choices, filled, panels, queries
from tests.deploy.series import KNOWN, Reading

ROOT = Path(__file__).parent.parent.parent
GRAFANA = ROOT / "deploy" / "grafana"
PAGE = (ROOT / "docs" / "dashboards.md").read_text(encoding="utf-8")
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")


def overlapping(board: dict[str, Any]) -> list[tuple[str, str]]:
    """Pairs of panels that cover each other, or reach beyond the edge."""
    taken: dict[tuple[int, int], str] = {}
    found = []
    for panel in board["panels"]:
        place = panel["gridPos"]
        if place["x"] + place["w"] > COLUMNS:
            found.append((panel["title"], "the edge"))
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                other = taken.setdefault((x, y), panel["title"])
                if other != panel["title"]:
                    found.append((panel["title"], other))
    return found


def test_what_is_committed_is_what_the_code_makes() -> None:
    made = dashboards()
    assert {path.name for path in FOLDER.iterdir()} == set(made), "run scripts/dashboards"
    for name, text in made.items():
        assert (FOLDER / name).read_text(encoding="utf-8") == text, f"{name}: run scripts/dashboards"


def test_the_overview_comes_first_and_asks_its_three_questions() -> None:
    assert next(iter(dashboards())) == "pilotlight-overview.json"
    rows = [panel["title"] for panel in BOARDS["pilotlight-overview"]["panels"] if panel["type"] == "row"]
    assert rows == [
        "Is it up, is it warm, is it fast",
        "Is it fast",
        "Is it warm",
        "Is it up, and what does it do",
    ]


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
def test_every_panel_is_whole(board: dict[str, Any]) -> None:
    ids = [panel["id"] for panel in board["panels"]]
    assert all(ids)
    assert len(ids) == len(set(ids))
    titles = Counter(panel["title"] for panel in panels(board))
    assert [title for title, count in titles.items() if count > 1] == []
    for panel in panels(board):
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, panel["title"]
        assert len(panel["description"]) > 20, panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        defaults = panel["fieldConfig"]["defaults"]
        assert defaults["unit"], panel["title"]
        assert defaults["noValue"], panel["title"]
        assert panel["targets"], panel["title"]
        references = [target["refId"] for target in panel["targets"]]
        assert len(references) == len(set(references)), panel["title"]
        for target in panel["targets"]:
            assert target["expr"]
            assert target["datasource"] == panel["datasource"]
            assert target.get("range") or target.get("instant"), panel["title"]


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
def test_what_is_no_number_is_shown_in_words_and_legends_are_shown(board: dict[str, Any]) -> None:
    for panel in panels(board):
        if panel["type"] not in ("table", "heatmap"):
            words = panel["fieldConfig"]["defaults"]["mappings"]
            assert [word["options"]["result"]["text"] for word in words if word["type"] == "special"], panel["title"]
        if panel["type"] in ("timeseries", "state-timeline"):
            assert panel["options"]["legend"]["showLegend"] is True, panel["title"]
            assert all(target["legendFormat"] for target in panel["targets"]), panel["title"]


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
def test_panels_stand_beside_each_other(board: dict[str, Any]) -> None:
    assert overlapping(board) == []


def test_an_overlap_is_found() -> None:
    def place(title: str, x: int, y: int) -> dict[str, Any]:
        return {"title": title, "gridPos": {"x": x, "y": y, "w": 12, "h": 8}}

    assert overlapping({"panels": [place("a", 0, 0), place("b", 12, 0), place("c", 0, 8)]}) == []
    assert ("b", "a") in overlapping({"panels": [place("a", 0, 0), place("b", 11, 7)]})
    assert ("a", "the edge") in overlapping({"panels": [place("a", 13, 0)]})


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
def test_variables_that_are_used_are_there_and_the_others_are_used(board: dict[str, Any]) -> None:
    names = {variable["name"] for variable in board["templating"]["list"]}
    built_in = {"__rate_interval", "__range", "__interval", "__all"}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps([board["panels"], board["annotations"], board["templating"]])))
    assert used - built_in == names
    assert "datasource" in names
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            assert (variable["multi"], variable["includeAll"], variable["allValue"]) == (True, True, ".*")


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
def test_every_query_is_promql_and_asks_for_what_exists(board: dict[str, Any]) -> None:
    for asked in queries(board):
        assert Reading(filled(asked.expr)).wrong == [], asked.where
    for label, series in choices(board):
        name = series.partition("{")[0]
        assert label in KNOWN[name], series


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
def test_legends_name_labels_that_the_query_leaves(board: dict[str, Any]) -> None:
    for panel in panels(board):
        for target in panel["targets"]:
            named = set(re.findall(r"\{\{(\w+)\}\}", target.get("legendFormat", "")))
            if panel["type"] == "heatmap":
                named.discard("le")
            assert named <= Reading(filled(target["expr"])).labels, (panel["title"], target["refId"])


def test_every_metric_is_on_a_dashboard() -> None:
    shown = {
        name for board in BOARDS.values() for asked in queries(board) for name in Reading(filled(asked.expr)).names
    }
    base = {re.sub(r"_(bucket|count|sum)$", "", name) for name in shown}
    families = Families(CollectorRegistry()).listing
    unseen = {family.name for family in families if family.name not in base}
    # pilotlight_model_state shows that one failed, and its alert the reason.
    assert unseen == {"pilotlight_model_failed"}


def test_goals_are_drawn_where_first_tokens_are() -> None:
    (panel,) = [row for row in panels(BOARDS["pilotlight-overview"]) if row["title"] == "First token, warm and cold"]
    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    assert [step["value"] for step in steps] == [None, 0.5, 2.0]
    assert panel["fieldConfig"]["defaults"]["custom"]["thresholdsStyle"]["mode"] == "dashed"


def test_alerts_that_descriptions_name_are_in_the_runbook() -> None:
    text = json.dumps(list(BOARDS.values()))
    named = set(re.findall(r"\bPilotlight[A-Z]\w+", text))
    assert len(named) > 10
    assert {name for name in named if f"### {name}\n" not in RUNBOOK} == set()


def test_files_that_descriptions_name_exist() -> None:
    named = set(re.findall(r"\bdocs/[\w-]+\.md", json.dumps(list(BOARDS.values()))))
    assert all((ROOT / name).exists() for name in named)


def test_dashboards_lead_to_each_other() -> None:
    for board in BOARDS.values():
        (link,) = board["links"]
        assert (link["type"], link["tags"]) == ("dashboards", ["pilotlight"])
        assert board["tags"] == ["pilotlight"]
        assert (link["includeVars"], link["keepTime"]) == (True, True)


def test_reloads_are_drawn_into_every_graph_but_those_of_the_gpu() -> None:
    for uid, board in BOARDS.items():
        names = [annotation["name"] for annotation in board["annotations"]["list"]]
        assert names == ([] if uid in UNEXECUTED else ["Models loaded again", "Settings read"])


def test_the_data_source_has_the_scrape_interval_and_dashboards_their_folder() -> None:
    provisioning = GRAFANA / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    prometheus = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
    assert source["jsonData"]["timeInterval"] == prometheus["global"]["scrape_interval"]
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "pilotlight.yml").read_text())["providers"]
    compose = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    assert f"./deploy/grafana/dashboards:{provider['options']['path']}:ro" in compose
    assert "./deploy/grafana/provisioning:/etc/grafana/provisioning:ro" in compose


def test_the_page_lists_every_dashboard_and_every_heading() -> None:
    for board in BOARDS.values():
        assert f"## {board['title'].removeprefix('Pilotlight / ')}\n" in PAGE, board["title"]
        for panel in board["panels"]:
            if panel["type"] == "row":
                assert f"**{panel['title']}**" in PAGE, panel["title"]
