"""`pilotlight key new`, started as a user starts it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from proxy.admission.priority import Priority
from proxy.edge.keys import Keys
from proxy.settings import Settings, load
from tests.cli.test_check import pilotlight

if TYPE_CHECKING:
    from pathlib import Path


def parts(out: str) -> tuple[str, str]:
    """The key, and what is for the settings file."""
    key, _, lines = out.partition("\n")
    return key, lines


def loaded(folder: Path, lines: str) -> Settings:
    path = folder / "settings.yaml"
    path.write_text(lines, encoding="utf-8")
    return load(path, {}, {})


def test_the_printed_lines_are_settings_and_know_the_printed_key(tmp_path: Path) -> None:
    result = pilotlight("key", "new", "laptop")
    key, lines = parts(result.stdout)
    settings = loaded(tmp_path, lines)
    assert result.returncode == 0
    assert re.fullmatch(r"pl_[A-Za-z0-9_-]{43}", key)
    holder = Keys(settings.keys, b"secret").find(key, 0.0)
    assert holder is not None
    assert (holder.name, holder.scopes, holder.allows_model("any:thing")) == ("laptop", {"infer", "read"}, True)


def test_the_flags_are_in_the_printed_lines(tmp_path: Path) -> None:
    flags = ["--class", "batch", "--scope", "read", "--scope", "manage", "--model", "llama3.2", "--model", "*:[1-3]b"]
    key, lines = parts(pilotlight("key", "new", "true", *flags).stdout)
    holder = Keys(loaded(tmp_path, lines).keys, b"secret").find(key, 0.0)
    assert holder is not None
    assert (holder.name, holder.ceiling, holder.scopes) == ("true", Priority.BATCH, {"read", "manage"})
    assert [name for name in ("llama3.2:latest", "a:3b", "a:4b") if holder.allows_model(name)] == [
        "llama3.2:latest",
        "a:3b",
    ]


def test_the_key_is_shown_once_and_this_is_said_beside_it() -> None:
    result = pilotlight("key", "new", "laptop")
    key, lines = parts(result.stdout)
    assert key not in lines
    assert key not in result.stderr
    assert "not shown again" in result.stderr
    assert result.stderr.count("\n") == 1


def test_no_two_keys_are_the_same() -> None:
    assert len({parts(pilotlight("key", "new", "a").stdout)[0] for _ in range(3)}) == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["two words"], "pilotlight: NAME: 'two words' must be"),
        (["line\nbreak"], "pilotlight: NAME: "),
        ([""], "pilotlight: NAME: "),
        (["n\u00e4me"], "pilotlight: NAME: "),
        (["a" * 65], "pilotlight: NAME: "),
        (["a", "--model", "two words"], "pilotlight: --model: "),
    ],
)
def test_what_cannot_stand_in_the_settings_is_refused_and_no_key_is_made(arguments: list[str], said: str) -> None:
    result = pilotlight("key", "new", *arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith(said)
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("flag", ["--class", "--scope"])
def test_an_unknown_class_or_scope_ends_with_2(flag: str) -> None:
    result = pilotlight("key", "new", "a", flag, "root")
    assert (result.returncode, result.stdout) == (2, "")
