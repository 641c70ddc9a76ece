"""How late the event loop is: a timer that should fire every ``INTERVAL_S``, and by how much it did not.

Every stream waits while the loop is busy, so a lag of 50 ms is 50 ms between two tokens of all of them.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

INTERVAL_S = 0.25


async def probe_lag(
    observe: Callable[[float], None], interval_s: float = INTERVAL_S, clock: Callable[[], float] = time.monotonic
) -> None:
    """Measure until cancelled; whoever starts the task owns it.

    Args:
        observe: Takes each delay in seconds, 0 or more.
    """
    while True:
        due = clock() + interval_s
        await asyncio.sleep(interval_s)
        observe(max(0.0, clock() - due))
