from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SCRIPTS = sorted(path for path in (ROOT / "scripts").iterdir() if path.is_file() and not path.suffix)


def commands(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith(("#", "set -"))]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_each_script_is_short_runnable_and_listed(script: Path) -> None:
    assert os.access(script, os.X_OK)
    assert len(script.read_text(encoding="utf-8").splitlines()) <= 30
    assert f"`scripts/{script.name}" in (ROOT / "scripts" / "README.md").read_text(encoding="utf-8")
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0


def test_continuous_integration_runs_the_test_script_and_nothing_else() -> None:
    (command,) = commands(ROOT / ".ci" / "run")
    assert command.endswith('/../scripts/test"')


def test_the_set_up_installs_the_locked_packages_without_resolving_any() -> None:
    lines = commands(ROOT / "scripts" / "setup")
    assert [line.count("--no-deps") for line in lines if "pip" in line and "install" in line] == [1]
    installs = [line for line in lines if "install --" in line and "pip" not in line]
    assert ["--require-hashes" in line for line in installs] == [True, False]
    assert "--no-build-isolation" in installs[1]
    assert [line.split()[:2] for line in lines if line.lstrip().startswith("npm")] == [["npm", "ci"]]


def test_the_summary_of_the_tests_is_the_last_line() -> None:
    assert [line.split()[0] for line in commands(ROOT / "scripts" / "test")[-2:]] == [".venv/bin/pytest", "exit"]


@pytest.mark.parametrize("arguments", [[], ["nothing"], ["standin"], ["relay scheduler"]])
def test_what_is_no_benchmark_ends_with_2_and_the_names_of_all(arguments: list[str]) -> None:
    result = subprocess.run([ROOT / "scripts" / "bench", *arguments], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (2, "")
    usage, names = result.stderr.removesuffix("\n").split("; NAME is one of ")
    assert usage == "usage: scripts/bench NAME [arguments]"
    assert names == "batch, edge, embed, relay, scheduler, selfcheck, slow"
    listed = (ROOT / "scripts" / "README.md").read_text(encoding="utf-8")
    assert [name for name in names.split(", ") if f"scripts/bench {name}`" not in listed] == []
