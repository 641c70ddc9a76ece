from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest

from proxy.bench.machine import look


def test_it_is_this_machine() -> None:
    found = look()
    assert platform.python_version() in found.python
    assert found.os == platform.platform()
    assert 1 <= found.cores <= (os.cpu_count() or 1)
    assert found.memory_bytes is None or found.memory_bytes > 2**26


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="reads /proc")
def test_memory_is_what_linux_says() -> None:
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    (total,) = (int(line.split()[1]) * 1024 for line in lines if line.startswith("MemTotal:"))
    assert look().memory_bytes == total
