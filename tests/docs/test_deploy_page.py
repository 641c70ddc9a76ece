"""``docs/deploy.md`` names what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from proxy.settings import load
from proxy.settings.names import is_known
from scripts.compose import compose_variables
from tests.e2e.browser import table_rows

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
SERVICES = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]


def test_the_table_has_every_service_and_where_it_is_published() -> None:
    rows = table_rows(PAGE, "| service |")[1:]
    assert {row[0].strip("`") for row in rows} == set(SERVICES)
    for name, where, _ in rows:
        port = re.search(r"//127\.0\.0\.1:(\d+)", where)
        listed = SERVICES[name.strip("`")].get("ports", [])
        assert (port is None) == (not listed)
        assert port is None or any(f":-{port[1]}}}:" in each for each in listed), where


def test_every_variable_that_is_named_exists() -> None:
    known = {name for name, _ in compose_variables()} | {"COMPOSE_PROFILES", "COMPOSE_FILE"}
    named = set(re.findall(r"\b(?:[A-Z]+_)+[A-Z_]+\b", PAGE))
    for name in named - {"SYS_ADMIN", "SOURCE_DATE_EPOCH", "PYTHON_IMAGE", "AF_UNIX", "AF_INET", "IMAGE_"}:
        ours = name.startswith("PILOTLIGHT_")
        assert is_known(tuple(name.removeprefix("PILOTLIGHT_").lower().split("__"))) if ours else name in known, name


def test_every_line_of_the_way_on_has_its_reason() -> None:
    text = (ROOT / "nginx" / "proxy.conf").read_text(encoding="utf-8")
    used = dict.fromkeys(re.findall(r"^(\w+) ", text, re.MULTILINE))
    assert [row[0].strip("`") for row in table_rows(PAGE, "| directive |")[1:]] == list(used)


@pytest.mark.parametrize("row", table_rows(PAGE, "| in `nginx/nginx.conf` |")[1:], ids=lambda row: row[0])
def test_what_is_to_change_without_docker_is_there(row: list[str]) -> None:
    text = (ROOT / "nginx" / "nginx.conf").read_text(encoding="utf-8")
    assert all(place.removesuffix("...") in text for place in re.findall("`([^`]+)`", row[0]))


def test_what_pilotlight_is_told_about_nginx_is_settings(tmp_path: Path) -> None:
    (told,) = re.findall(r"`(edge: {[^`]+})`", PAGE)
    (tmp_path / "settings.yaml").write_text(told, encoding="utf-8")
    assert load(tmp_path / "settings.yaml", {}, {}).edge.trusted_proxies == ("127.0.0.1/32",)


def test_limits_of_nginx_are_those_that_are_told() -> None:
    text = (ROOT / "nginx" / "nginx.conf").read_text(encoding="utf-8")
    for directive, told in (
        ("rate=10r/s", "10 a second"),
        ("burst=20 ", "burst of 20"),
        ("client_max_body_size 256m;", "256 MiB each"),
        ("limit_conn connections 100;", "100 connections"),
    ):
        assert directive in text
        assert told in PAGE
    answered = {code for line in re.findall(r"error_page ([\d ]+)@", text) for code in line.split()}
    assert {code for code in answered if not code.startswith("49")} == set(
        re.findall(r"\d{3}", re.findall(r"Errors of nginx's own \(([^)]+)\)", PAGE)[0])
    )
