from __future__ import annotations

import asyncio
import shutil

import pytest

from proxy.bench.children import free_port
from proxy.bench.own import slow as bench
from proxy.bench.own.standin import serve


def test_a_row_is_judged_by_its_slowest_calls_and_by_those_that_failed() -> None:
    traffic = bench.Traffic(0)
    traffic.taken_s = [0.001] * 200
    assert traffic.row("x").split() == ["x", "200", "0", "1.00", "1.00", "100", "pass"]
    traffic.failed = 1
    assert traffic.row("x").endswith("MISS")
    traffic.failed, traffic.taken_s = 0, [0.001] * 190 + [0.2] * 10
    assert traffic.row("x").endswith("MISS")


async def test_traffic_keeps_its_rate_and_counts_what_was_answered() -> None:
    port = free_port()
    serving = asyncio.create_task(serve(port))
    try:
        while serving.done() is False:
            try:
                traffic = bench.Traffic(port)
                await asyncio.to_thread(traffic.run, 0.25)
                break
            except ConnectionRefusedError:
                await asyncio.sleep(0)
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
    assert (len(traffic.taken_s), traffic.failed) == (5, 0)


@pytest.mark.timeout(120)
async def test_calls_are_answered_beside_slow_clients() -> None:
    program = shutil.which("slowhttptest")
    if program is None:
        pytest.skip("slowhttptest is not installed (Debian has it)")
    measured = await bench.run(program, 2.0, 50)
    assert [(title, len(traffic.taken_s), traffic.failed) for title, traffic in measured.items()] == [
        ("alone", 40, 0),
        ("slow heads", 40, 0),
        ("slow bodies", 40, 0),
    ]
