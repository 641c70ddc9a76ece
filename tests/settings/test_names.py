from __future__ import annotations

from pathlib import Path

import pytest

import proxy
from proxy.settings import names


def test_every_name_stands_once() -> None:
    every = [name.path for name in names.walk()]
    assert len(every) == len(set(every))
    assert ("models", "*", "options", "num_ctx") in every


def test_every_setting_says_what_it_is() -> None:
    for name in names.walk():
        if name.field is not None and not names.is_part(name.annotation):
            assert (name.field.description or "").endswith("."), name.path


def test_numbers_carry_their_unit_in_the_name() -> None:
    for name in names.walk():
        if name.annotation is float:
            assert name.path[-1].endswith("_s"), name.path


def test_every_setting_is_used_somewhere() -> None:
    package = Path(proxy.__file__).parent
    outside = [path for path in package.rglob("*.py") if "settings" not in path.parts]
    used = "".join(path.read_text(encoding="utf-8") for path in outside)
    for name in names.walk():
        if name.field is not None and not names.is_part(name.annotation):
            assert f".{name.path[-1]}" in used, name.path


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (("residency", "check_evry_s"), ("residency", "check_every_s")),
        (("upstrem",), ("upstream",)),
        (("write_stall_s",), ("relay", "write_stall_s")),
        (("residency_check_every_s",), ("residency", "check_every_s")),
        (("models", "3", "optoins"), ("models", "3", "options")),
        (("zebra",), None),
    ],
)
def test_the_setting_that_was_meant_is_found(given: tuple[str, ...], meant: tuple[str, ...] | None) -> None:
    assert names.nearest(given) == meant


def test_members_of_lists_cannot_be_given_alone() -> None:
    assert names.is_known(("models",))
    assert not names.is_known(("models", "0", "name"))
    assert not names.is_known(("models", "*", "name"))
