from __future__ import annotations

import re
from pathlib import Path

from scripts.compose import compose_section, compose_variables

ROOT = Path(__file__).parent.parent.parent
FILES = sorted(ROOT.glob("docker-compose*.yml"))


def test_every_variable_of_the_files_is_in_the_example_once() -> None:
    used = {name for file in FILES for name in re.findall(r"\$\{(\w+)", file.read_text(encoding="utf-8"))}
    listed = [name for name, _ in compose_variables()]
    assert {name for name in used if not name.startswith("PILOTLIGHT_")} == set(listed)
    assert len(listed) == len(set(listed))
    assert all(compose_section().count(f"\n# {name}=") == 1 for name in listed)


def test_each_default_is_the_one_of_the_files() -> None:
    defaults = dict(compose_variables())
    assert defaults["PROXY_PORT"] == "11435"
    # That it is set at all switches something.
    assert defaults["EDGE_ADDRESS"] == ""
