"""`pilotlight demo`, started as a user starts it: real simulated servers, a real proxy."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "proxy", "demo"]
# The demonstration itself takes some 30 s: it waits out an idle gap and a dozen simulated loads.
pytestmark = pytest.mark.timeout(180)


def children_of(pid: int) -> list[int]:
    """The processes that a process has started; from /proc, so on Linux only."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_the_table_shows_every_workload_and_nothing_is_left_running() -> None:
    environ = {**os.environ, "PILOTLIGHT_LISTEN": "0.0.0.0:1", "OLLAMA_KEEP_ALIVE": "0"}
    result = subprocess.run(COMMAND, capture_output=True, text=True, timeout=150, env=environ, check=False)
    assert (result.returncode, result.stderr.count("\n")) == (0, 7), result.stderr
    assert "simulated" in result.stdout
    assert "\x1b" not in result.stdout + result.stderr
    rows = re.findall(r"│ (.+?) +│ +[\d,.]+ ms │ +[\d,.]+ ms │ +(\d+) │ +(\d+) │", result.stdout)
    loads = {name: (int(direct), int(proxied)) for name, direct, proxied in rows}
    assert len(loads) == 5, result.stdout
    assert loads["first request after start"] == (1, 0)
    assert loads["clients with differing runner options"][0] > 1
    # The growth of num_ctx is the one load that differing options may cost.
    assert loads["clients with differing runner options"][1] <= 1
    assert all(proxied == 0 for name, (_, proxied) in loads.items() if "options" not in name)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc to see what is running")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_demo_leaves_nothing_running(number: signal.Signals) -> None:
    with subprocess.Popen(COMMAND, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as demo:
        assert demo.stderr is not None
        while "first request" not in demo.stderr.readline():
            assert demo.poll() is None
        started = children_of(demo.pid)
        assert len(started) == 3
        demo.send_signal(number)
        out, err = demo.communicate(timeout=30)
    assert demo.returncode == 130
    assert out == ""
    assert "Traceback" not in err
    deadline = time.monotonic() + 10
    while any(is_running(pid) for pid in started):
        assert time.monotonic() < deadline, "still running"
        time.sleep(0.05)
