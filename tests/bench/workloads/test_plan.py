from __future__ import annotations

import math

import pytest

from proxy.bench.workloads.plan import Plan, keep_alive_s


@pytest.mark.parametrize(
    ("text", "seconds"), [("1s", 1.0), ("1m30s", 90.0), ("-1s", math.inf), ("0", 0.0), ("soon", 0.0), ("3", 0.0)]
)
def test_a_keep_alive_is_read_as_ollama_reads_it(text: str, seconds: float) -> None:
    assert keep_alive_s(text) == seconds
    assert Plan(model="m", workloads=(), keep_alive=text).keep_alive_s == seconds
