"""Configuration, rules and alerts, as promtool sees them, and the runbook that belongs to them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.series import RECORDED, Reading
from tests.deploy.stack import WINDOWS, render, render_rules

ROOT = Path(__file__).parent.parent.parent
PROMETHEUS = ROOT / "deploy" / "prometheus"
CASES = Path(__file__).parent / "alerts.yml"
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
PROMTOOL = shutil.which("promtool")
needs_promtool = [
    pytest.mark.prometheus,
    pytest.mark.skipif(PROMTOOL is None, reason="promtool (of prometheus) is not installed"),
]

CONFIG = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text(encoding="utf-8"))
RULES: list[dict[str, Any]] = [
    rule
    for path in sorted((PROMETHEUS / "rules").glob("*.yml"))
    for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}


def promtool(*arguments: str | Path) -> str:
    """What it says, once it is content."""
    assert PROMTOOL is not None
    result = subprocess.run([PROMTOOL, *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def anchors(page: str) -> set[str]:
    """Where links into the page can lead, as GitHub and GitLab make them of headings."""
    headings = re.findall(r"^#+ (.+)$", page, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


class TestWithPromtool:
    pytestmark = needs_promtool

    def test_the_configuration_is_valid(self, tmp_path: Path) -> None:
        key = tmp_path / "key"
        key.write_text("pl_key\n", encoding="utf-8")
        text = (PROMETHEUS / "prometheus.yml").read_text(encoding="utf-8")
        shutil.copytree(PROMETHEUS / "rules", tmp_path / "rules")
        shutil.copytree(PROMETHEUS / "gpu", tmp_path / "gpu")
        # promtool asks whether the files are there; in the container they are.
        replaced = {"/run/secrets/pilotlight_read_key": str(key), "/etc/prometheus-gpu": str(tmp_path / "gpu")}
        config = tmp_path / "prometheus.yml"
        config.write_text(render(text, replaced), encoding="utf-8")
        said = promtool("check", "config", config)
        assert "2 rule files found" in said
        assert "SUCCESS" in said

    def test_the_rules_are_valid(self) -> None:
        said = promtool("check", "rules", "--lint-fatal", *sorted((PROMETHEUS / "rules").glob("*.yml")))
        assert f"{len(ALERTS)} rules found" in said
        assert f"{len(RECORDED)} rules found" in said

    def test_each_alert_fires_where_it_should_and_is_silent_where_it_should(self) -> None:
        assert "SUCCESS" in promtool("test", "rules", CASES)

    def test_a_case_that_is_wrong_is_found(self, tmp_path: Path) -> None:
        cases = yaml.safe_load(CASES.read_text(encoding="utf-8"))
        cases["rule_files"] = [str(PROMETHEUS / "rules" / "*.yml")]
        (case, *_) = [test for test in cases["tests"] if not test["alert_rule_test"][0]["exp_alerts"]]
        case["alert_rule_test"][0]["exp_alerts"] = [{"exp_labels": {"severity": "critical"}}]
        cases["tests"] = [case]
        wrong = tmp_path / "wrong.yml"
        wrong.write_text(yaml.safe_dump(cases), encoding="utf-8")
        assert PROMTOOL is not None
        result = subprocess.run([PROMTOOL, "test", "rules", wrong], capture_output=True, text=True, check=False)
        assert result.returncode == 1
        assert "FAILED" in result.stdout + result.stderr


def test_each_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    cases = yaml.safe_load(CASES.read_text(encoding="utf-8"))
    fires: dict[str, set[bool]] = {}
    for test in cases["tests"]:
        for rule in test["alert_rule_test"]:
            fires.setdefault(rule["alertname"], set()).add(bool(rule["exp_alerts"]))
    assert fires == {name: {True, False} for name in ALERTS}


def test_each_alert_says_what_and_where_and_leads_to_its_paragraph() -> None:
    for name, rule in ALERTS.items():
        assert name.startswith("Pilotlight")
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        annotations = rule["annotations"]
        assert set(annotations) == {"summary", "description", "runbook_url"}
        assert "$labels.instance" in annotations["description"]
        path, _, anchor = annotations["runbook_url"].partition("#")
        assert path == "docs/runbook.md"
        assert anchor == name.lower()
        assert anchor in anchors(RUNBOOK)


def test_the_runbook_has_each_alert_once_and_no_other() -> None:
    assert sorted(re.findall(r"^### (Pilotlight\w+)$", RUNBOOK, re.MULTILINE)) == sorted(ALERTS)


@pytest.mark.parametrize("name", ALERTS)
def test_each_paragraph_says_what_it_means_where_to_look_and_what_helps(name: str) -> None:
    _, _, after = RUNBOOK.partition(f"### {name}\n")
    paragraph = after.partition("\n### ")[0].partition("\n## ")[0]
    for part in ("**Means**", "**Look**", "**Do**"):
        assert part in paragraph
    assert f"`{ALERTS[name]['labels']['severity']}`" in paragraph


def test_rules_ask_for_what_exists() -> None:
    for rule in RULES:
        assert Reading(rule["expr"]).wrong == [], rule


def test_the_first_part_of_a_recorded_name_says_which_labels_are_left() -> None:
    for rule in RULES:
        if "record" in rule:
            assert Reading(rule["expr"]).labels == RECORDED[rule["record"]], rule["record"]


def test_what_is_recorded_is_used_or_named_in_the_documents() -> None:
    pages = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs").glob("*.md"))
    used = "".join(rule["expr"] for rule in ALERTS.values())
    assert [name for name in RECORDED if name not in used and name not in pages] == []


def test_recorded_names_say_level_metric_and_window() -> None:
    assert all(re.fullmatch(r"[a-z_]+:[a-z_]+:[a-z0-9_]+", name) for name in RECORDED)


def test_prometheus_shows_the_key_and_looks_where_the_compose_files_put_things() -> None:
    jobs = {job["job_name"]: job for job in CONFIG["scrape_configs"]}
    key = jobs["pilotlight"]["authorization"]["credentials_file"]
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    prometheus = compose["services"]["prometheus"]
    assert key == f"/run/secrets/{prometheus['secrets'][0]}"
    assert "./deploy/prometheus:/etc/prometheus:ro" in prometheus["volumes"]
    (target,) = jobs["pilotlight"]["static_configs"][0]["targets"]
    assert target.partition(":")[0] in compose["services"]
    gpu = yaml.safe_load((ROOT / "docker-compose.gpu.yml").read_text(encoding="utf-8"))
    (files,) = jobs["gpu"]["file_sd_configs"][0]["files"]
    assert f"./deploy/prometheus/gpu:{files.rpartition('/')[0]}:ro" in gpu["services"]["prometheus"]["volumes"]
    (exporters,) = yaml.safe_load((PROMETHEUS / "gpu" / "targets.yml").read_text(encoding="utf-8"))
    assert exporters["targets"][0].partition(":")[0] in gpu["services"]


def test_rendering_shortens_every_window_and_wait_and_nothing_else() -> None:
    for path in (PROMETHEUS / "rules").glob("*.yml"):
        text = path.read_text(encoding="utf-8")
        rendered = render_rules(text)
        before, after = text.splitlines(), rendered.splitlines()
        changed = [(was, now) for was, now in zip(before, after, strict=True) if was != now]
        assert changed
        assert all("[" in was or "for: " in was for was, _ in changed)
        assert not any(f"[{window}]" in rendered for window in WINDOWS if window not in WINDOWS.values())
