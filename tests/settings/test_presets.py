from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from proxy.errors import ConfigError
from proxy.settings.presets import PRESETS
from proxy.settings.sources import load

if TYPE_CHECKING:
    from pathlib import Path

    from proxy.settings import Settings


def from_yaml(folder: Path, text: str) -> Settings:
    path = folder / "pilotlight.yaml"
    path.write_text(text, encoding="utf-8")
    return load(path, {}, {})


@pytest.mark.parametrize(
    ("name", "entries", "ttl_s", "idle"),
    [("small", 50, 300, 50), ("balanced", 200, 600, 100), ("large", 500, 3600, 200)],
)
def test_a_preset_sets_the_sizes_of_the_guide(tmp_path: Path, name: str, entries: int, ttl_s: int, idle: int) -> None:
    settings = from_yaml(tmp_path, f"preset: {name}")
    assert (settings.cache.max_entries, settings.cache.ttl_s, settings.upstream.max_idle) == (entries, ttl_s, idle)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_switches_nothing_on(tmp_path: Path, name: str) -> None:
    settings = from_yaml(tmp_path, f"preset: {name}")
    assert settings.cache.mode == "off"
    assert settings.rate_limit.rate_per_s == 0
    assert settings.embed_batch == {}
    assert settings.share_identical is False


def test_what_is_set_wins_over_the_preset(tmp_path: Path) -> None:
    settings = from_yaml(tmp_path, "preset: large\ncache: {mode: all, ttl_s: 60}\nscheduler: {max_queue: 7}")
    assert (settings.cache.mode, settings.cache.ttl_s, settings.cache.max_entries) == ("all", 60, 500)
    assert settings.scheduler.max_queue == 7


@pytest.mark.parametrize(("name", "rate", "burst"), [("small", 5, 10), ("balanced", 10, 20), ("large", 20, 50)])
def test_a_rate_can_be_the_presets(tmp_path: Path, name: str, rate: int, burst: int) -> None:
    limit = from_yaml(tmp_path, f"preset: {name}\nrate_limit: {{rate_per_s: preset}}").rate_limit
    assert (limit.rate_per_s, limit.burst) == (rate, burst)


def test_batches_that_are_on_get_the_presets_size(tmp_path: Path) -> None:
    batches = from_yaml(tmp_path, "preset: small\nembed_batch: {a: {}, b: {max: 3}}").embed_batch
    assert (batches["a"].max, batches["a"].wait_s) == (5, 0.5)
    assert (batches["b"].max, batches["b"].wait_s) == (3, 0.5)


@pytest.mark.parametrize(
    "text", ["rate_limit: {rate_per_s: preset}", "preset: huge", "preset: 3", "cache: 5\npreset: small"]
)
def test_a_preset_that_is_none_is_refused_by_name(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"rate_limit\.rate_per_s|preset|cache"):
        from_yaml(tmp_path, text)
