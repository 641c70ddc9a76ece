from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
LOCK = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FILES = sorted((ROOT / "requirements").glob("*.txt"))


def name_of(requirement: str) -> str:
    match = re.match(r"[\w.-]+", requirement)
    assert match is not None
    return match[0].lower().replace("_", "-")


def pins(path: Path) -> dict[str, str]:
    return dict(re.findall(r"^([\w.-]+)==([^\s;]+)", path.read_text(encoding="utf-8"), re.MULTILINE))


def asked_by(group: str) -> set[str]:
    """The packages that a group names, those of the groups in it among them."""
    found: set[str] = set()
    for entry in PROJECT["dependency-groups"][group]:
        found |= {name_of(entry)} if isinstance(entry, str) else asked_by(entry["include-group"])
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_requirement_is_the_locked_version_and_has_its_hashes(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    locked = {package["name"]: package.get("version") for package in LOCK["package"]}
    assert pins(path)
    assert all(locked[name] == version for name, version in pins(path).items())
    for requirement in re.split(r"\n(?=[\w])", text.strip()):
        assert "--hash=sha256:" in requirement
    assert "://" not in text


def test_what_the_project_asks_for_is_locked() -> None:
    run, dev = pins(ROOT / "requirements" / "run.txt"), pins(ROOT / "requirements" / "dev.txt")
    assert {name_of(text) for text in PROJECT["project"]["dependencies"]} <= set(run)
    assert asked_by("dev") | asked_by("build") <= set(dev)
    assert asked_by("clients") <= set(pins(ROOT / "requirements" / "clients.txt"))
    assert run.items() <= dev.items()


def test_the_lock_names_public_places_only() -> None:
    hosts = set(re.findall(r"https?://([^/\"]+)", (ROOT / "uv.lock").read_text(encoding="utf-8")))
    assert hosts == {"pypi.org", "files.pythonhosted.org"}
