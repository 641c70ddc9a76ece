"""``docs/reuse.md`` names every setting of what it is about, and every mode of the cache."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from proxy.reuse.key import Mode
from proxy.settings.names import walk

PAGE = (Path(__file__).parent.parent.parent / "docs" / "reuse.md").read_text(encoding="utf-8")


def dotted(path: tuple[str, ...]) -> str:
    """As the page of settings spells it."""
    return ".".join(part for part in path if part != "*")


@pytest.mark.parametrize("group", ["cache", "embed_batch", "fallback", "share_identical"])
def test_every_setting_is_named(group: str) -> None:
    paths = [name.path for name in walk() if name.path[0] == group]
    members = {dotted(path) for path in paths if len(path) > 1 and path[-1] != "*"} or {group}

    assert {name for name in members if f"`{name}`" not in PAGE} == set()


def test_no_setting_is_named_that_does_not_exist() -> None:
    known = {dotted(name.path) for name in walk()}
    named = set(re.findall(r"`((?:cache|embed_batch|fallback|scheduler|rate_limit|upstream)\.\w+)`", PAGE))

    assert named <= known


def test_every_mode_of_the_cache_has_a_row() -> None:
    table = PAGE[PAGE.index("| `cache.mode` | answers") :].split("\n\n", 1)[0]

    assert tuple(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == get_args(Mode)
