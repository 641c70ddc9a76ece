from __future__ import annotations

import asyncio
import time

from proxy.observe.lag import probe_lag


async def test_a_blocked_loop_is_seen_and_the_probe_ends_with_its_task() -> None:
    seen: list[float] = []
    begun, noted = asyncio.Event(), asyncio.Event()

    def note(lag_s: float) -> None:
        seen.append(lag_s)
        begun.set()
        if lag_s >= 0.04:
            noted.set()

    task = asyncio.create_task(probe_lag(note, interval_s=0.005))
    await asyncio.wait_for(begun.wait(), 10)
    # Blocking is the point: whatever time this takes beyond the next tick of the timer is the lag.
    asyncio.get_running_loop().call_soon(time.sleep, 0.06)
    await asyncio.wait_for(noted.wait(), 10)

    task.cancel()
    assert await asyncio.gather(task, return_exceptions=True) != [None]
    assert min(seen) >= 0
