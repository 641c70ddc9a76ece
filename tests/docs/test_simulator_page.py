"""docs/simulator.md names every option, fault and control call that there is."""

from __future__ import annotations

import re
from pathlib import Path

import typer.main

from proxy.cli import app
from proxy.simulator import FAULT_KINDS, control

PAGE = (Path(__file__).parent.parent.parent / "docs" / "simulator.md").read_text(encoding="utf-8")


def rows(heading: str) -> set[str]:
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    return {row.strip("`") for row in re.findall(r"^\| (`[^`]+`) \|", section, re.MULTILINE)}


def test_every_option_is_documented() -> None:
    command = typer.main.get_command(app).commands["simulate"]  # type: ignore[attr-defined]
    options = {name for parameter in command.params for name in parameter.opts} - {"--help"}
    assert {row.split()[0] for row in rows("Options")} == options


def test_every_fault_is_documented() -> None:
    assert rows("Faults") == set(FAULT_KINDS)


def test_every_control_call_is_documented() -> None:
    assert control.__doc__ is not None
    assert rows("The control port") == set(re.findall(r"``([A-Z]+ /_sim/\w+)``", control.__doc__))
