from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.bench.own.figures import NGINX, PILOTLIGHT
from proxy.bench.own.proc import family
from proxy.bench.own.ways import find_nginx
from tests.bench.programs import is_alive

ROOT = Path(__file__).parents[3]
BENCH = (sys.executable, "-m", "proxy.bench.own.relay")
needs_nginx = pytest.mark.skipif(find_nginx() is None, reason="nginx is not installed (apt-get install nginx)")


def rows(report: Path) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(report.read_text())["rows"]
    return found


@pytest.mark.nginx
@needs_nginx
def test_a_quick_run_measures_everything_on_both_proxies(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    ran = subprocess.run(
        [*BENCH, "--quick", "--json", str(report)], cwd=ROOT, capture_output=True, text=True, timeout=55, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert len(rows(report)) == 6
    for row in rows(report):
        # How much was measured depends on the machine; that it was, and what became of it, does not.
        assert isinstance(row[NGINX], float)
        assert isinstance(row[PILOTLIGHT], float)
        assert isinstance(row["passed"], bool)
        assert str(row["measure"]) in ran.stdout
    assert "not Ollama" in ran.stdout
    assert "round 1 of 1" in ran.stderr


def test_without_nginx_the_amounts_are_judged(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    subprocess.run(
        [*BENCH, "--quick", "--without-nginx", "--json", str(report)],
        cwd=ROOT,
        capture_output=True,
        timeout=55,
        check=True,
    )
    assert all(NGINX not in row and row["ratio"] is None for row in rows(report))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_everything_that_was_started(number: signal.Signals) -> None:
    process = subprocess.Popen(
        [*BENCH, "--quick", "--without-nginx"], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    while "round 1" not in process.stderr.readline():
        assert process.poll() is None
    children = family(process.pid)[1:]
    assert len(children) == 2
    process.send_signal(number)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert not [pid for pid in children if is_alive(pid)]


def test_a_number_of_rounds_that_makes_no_sense_is_refused() -> None:
    ran = subprocess.run([*BENCH, "--rounds", "0"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert "--rounds must be at least 1" in ran.stderr
