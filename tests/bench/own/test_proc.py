from __future__ import annotations

import os
import subprocess
import sys

from proxy.bench.own.proc import cpu_s, family, rss_kib


def test_a_family_is_a_process_and_what_it_started() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert {os.getpid(), child.pid} <= set(family(os.getpid()))
        assert family(child.pid) == (child.pid,)
    finally:
        child.communicate()


def test_a_process_that_is_gone_counts_nothing() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert (cpu_s([child.pid]), rss_kib([child.pid])) == (0, 0)


def test_a_running_process_has_memory() -> None:
    assert rss_kib([os.getpid()]) > 1000
    assert cpu_s([os.getpid()]) > 0


def test_processor_time_is_what_the_process_says_itself() -> None:
    program = "import sys, time\nwhile time.process_time() < 0.3: pass\nprint(time.process_time(), flush=True)\ninput()"
    child = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        said_s = float(child.stdout.readline())
        assert 0.25 <= cpu_s([child.pid]) <= said_s + 0.25
    finally:
        child.communicate()
