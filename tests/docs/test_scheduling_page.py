"""``docs/scheduling.md`` names every setting of the queue and the rates, and has the table of ``upstream.retry``."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from proxy.admission.priority import LABELS
from proxy.settings.names import walk
from proxy.upstream.retry import Situation, changes_nothing, may_repeat

PAGE = (Path(__file__).parent.parent.parent / "docs" / "scheduling.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `(\w+)` \| [^|]+ \| (again|no) \| (again|no) \| ([^|]*)\|$", re.MULTILINE)

# One of each kind that the page names.
CHANGES_NOTHING = (
    ("POST", "/api/chat"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/api/show"),
    ("GET", "/api/tags"),
    ("HEAD", "/"),
    ("OPTIONS", "/api/chat"),
    ("TRACE", "/"),
)
EVERYTHING_ELSE = (("POST", "/api/pull"), ("DELETE", "/api/delete"), ("PUT", "/unknown"))


@pytest.mark.parametrize("group", ["scheduler", "rate_limit"])
def test_every_setting_is_named(group: str) -> None:
    names = {".".join(name.path) for name in walk() if name.path[0] == group and len(name.path) > 1}

    assert names
    assert {name for name in names if f"`{name}`" not in PAGE} == set()


def test_no_setting_is_named_that_does_not_exist() -> None:
    known = {".".join(name.path) for name in walk()}

    assert set(re.findall(r"`((?:scheduler|rate_limit|upstream)\.\w+)", PAGE)) <= known


def test_every_class_is_named() -> None:
    assert {label for label in LABELS if f"`{label}`" not in PAGE} == set()


def test_the_table_of_what_may_be_sent_again_is_the_code() -> None:
    written = {situation: (safe == "again", other == "again") for situation, safe, other, _ in ROW.findall(PAGE)}

    for at, requests in enumerate((CHANGES_NOTHING, EVERYTHING_ELSE)):
        for method, target in requests:
            assert changes_nothing(method, target) is (at == 0), (method, target)
            built = {situation.value: may_repeat(method, target, situation) for situation in Situation}
            assert {situation: columns[at] for situation, columns in written.items()} == built, (method, target)


def test_what_may_be_sent_again_says_how_often() -> None:
    for situation, safe, other, times in ROW.findall(PAGE):
        assert bool(times.strip()) is ("again" in (safe, other)), situation
