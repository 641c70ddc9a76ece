"""Sizes that go together: for one application, for a team, for a shared server. Nothing is switched on by them.

Cache, rate, batches and connections are those of the performance guide; the queue's are ours, in the same proportion.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping


class Preset(NamedTuple):
    """What one preset says.

    Attributes:
        sizes: Settings, by group and name.
        rate: ``rate_per_s`` and ``burst``, for ``rate_limit.rate_per_s: preset``.
        batch: For each model under ``embed_batch``.
    """

    sizes: Mapping[tuple[str, str], float]
    rate: Mapping[str, float]
    batch: Mapping[str, float]


def _preset(idle: int, queue: int, entries: int, ttl_s: int, rate: int, burst: int, most: int, wait_s: float) -> Preset:
    sizes = {
        ("upstream", "max_idle"): idle,
        ("scheduler", "max_queue"): queue,
        ("cache", "max_entries"): entries,
        ("cache", "ttl_s"): ttl_s,
    }
    return Preset(sizes, {"rate_per_s": rate, "burst": burst}, {"max": most, "wait_s": wait_s})


PRESETS: Final[Mapping[str, Preset]] = {
    "small": _preset(50, 256, 50, 300, 5, 10, 5, 0.5),
    "balanced": _preset(100, 512, 200, 600, 10, 20, 10, 1),
    "large": _preset(200, 1024, 500, 3600, 20, 50, 20, 2),
}


def apply(tree: dict[str, Any]) -> None:
    """Put the preset that is named under everything that is set; a tree of the wrong shape is left to the model.

    Raises:
        ValueError: A rate is to come from the preset, and there is none.
    """
    preset = PRESETS.get(tree["preset"]) if isinstance(tree.get("preset"), str) else None
    limit = tree.get("rate_limit")
    if isinstance(limit, dict) and limit.get("rate_per_s") == "preset":
        if preset is None:
            raise ValueError(f"needs a preset ({', '.join(PRESETS)})")
        limit["rate_per_s"] = preset.rate["rate_per_s"]
        limit.setdefault("burst", preset.rate["burst"])
    if preset is None:
        return
    for (group, name), value in preset.sizes.items():
        below = tree.setdefault(group, {})
        if isinstance(below, dict):
            below.setdefault(name, value)
    batches = tree.get("embed_batch")
    for batch in batches.values() if isinstance(batches, dict) else ():
        if isinstance(batch, dict):
            for name, value in preset.batch.items():
                batch.setdefault(name, value)
