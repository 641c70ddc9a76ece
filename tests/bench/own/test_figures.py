from __future__ import annotations

import pytest

from proxy.bench.own.figures import (
    CPU_CHAT,
    DIRECT,
    FIRST_TOKEN_CHAT,
    MEMORY_REST,
    NGINX,
    PILOTLIGHT,
    Row,
    figures_table,
)


@pytest.mark.parametrize(("nginx", "ours", "passed"), [(10.0, 16.0, True), (10.0, 16.1, False), (30.0, 48.0, True)])
def test_the_multiple_of_nginx_decides_where_it_was_measured(nginx: float, ours: float, passed: bool) -> None:
    assert Row(CPU_CHAT, {NGINX: nginx, PILOTLIGHT: ours}).passed is passed


@pytest.mark.parametrize(("ours", "passed"), [(0.40, True), (0.41, False)])
def test_without_nginx_the_amount_decides(ours: float, passed: bool) -> None:
    row = Row(FIRST_TOKEN_CHAT, {PILOTLIGHT: ours})
    assert row.passed is passed
    assert row.ratio is None


def test_for_memory_only_the_amount_counts() -> None:
    assert Row(MEMORY_REST, {NGINX: 1.0, PILOTLIGHT: 69.0}).passed
    assert not Row(MEMORY_REST, {NGINX: 69.0, PILOTLIGHT: 71.0}).passed


def test_a_value_of_nginx_that_is_lost_in_noise_gives_no_ratio() -> None:
    assert Row(FIRST_TOKEN_CHAT, {NGINX: -0.01, PILOTLIGHT: 0.3}).ratio is None


def test_the_table_shows_values_ratio_targets_and_verdict() -> None:
    rows = [Row(CPU_CHAT, {NGINX: 10.0, PILOTLIGHT: 17.04}), Row(MEMORY_REST, {NGINX: 12.0, PILOTLIGHT: 50.0})]
    heading, first, second = (line.split() for line in figures_table(rows).splitlines())
    assert heading[:3] == [DIRECT, NGINX, PILOTLIGHT]
    assert first[-7:] == ["-", "10.0", "17.0", "1.70", "16", "1.6", "MISS"]
    assert second[-7:] == ["-", "12.0", "50.0", "4.17", "70", "-", "pass"]


def test_a_row_as_json_holds_what_the_table_shows() -> None:
    shown = Row(CPU_CHAT, {NGINX: 10.0, PILOTLIGHT: 15.0}).as_json()
    assert shown["ratio"] == 1.5
    assert shown["passed"] is True
    assert (shown[NGINX], shown[PILOTLIGHT], shown["target"], shown["target_of_nginx"]) == (10.0, 15.0, 16, 1.6)
