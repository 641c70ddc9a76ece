"""Limits on silence: an upstream that sends nothing, a client that takes nothing.

There is no limit on how long a reply may take as a whole: reading a long prompt is silent for minutes, and a long
answer is no fault.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from proxy.errors import UpstreamTimeout

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.relay.delivery import Delivery
    from proxy.relay.reply import ClientReply

# In the log, for a client that was given up; it gets no answer that could carry a code.
CLIENT_STALLED: Final = "client_stalled"


class Limits:
    """Watches one delivery. Costs nothing while neither limit is near.

    Args:
        delivery: What is watched.
        reply: Its client.
        idle_timeout_s: Longest silence of the upstream; 0 for no limit.
        write_stall_s: Longest time for which a client's full buffer stays full; 0 for no limit.
        clock: Monotonic seconds, the delivery's.

    Attributes:
        stalled: The client was given up.
    """

    __slots__ = (
        "_clock",
        "_delivery",
        "_idle_timeout_s",
        "_idle_timer",
        "_loop",
        "_reply",
        "_stall_timer",
        "_write_stall_s",
        "stalled",
    )

    def __init__(
        self,
        delivery: Delivery,
        reply: ClientReply,
        *,
        idle_timeout_s: float,
        write_stall_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._clock = clock
        self._delivery = delivery
        self._reply = reply
        self._idle_timeout_s = idle_timeout_s
        self._write_stall_s = write_stall_s
        self._loop = asyncio.get_running_loop()
        self._stall_timer: asyncio.TimerHandle | None = None
        self._idle_timer: asyncio.TimerHandle | None = None
        self.stalled = False
        if idle_timeout_s:
            self._idle_timer = self._loop.call_later(idle_timeout_s, self._look)

    def on_writable(self, writable: bool) -> None:
        """The client's buffer fell below its mark, or rose above it."""
        self._delivery.on_writable(writable)
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None
        if not writable and self._write_stall_s:
            self._stall_timer = self._loop.call_later(self._write_stall_s, self._give_up_client)

    def close(self) -> None:
        for timer in (self._stall_timer, self._idle_timer):
            if timer is not None:
                timer.cancel()

    def _look(self) -> None:
        # While the client's buffer is full it is we who do not read, and before it has its turn nothing was sent.
        is_ours = self._stall_timer is not None or self._delivery.is_queued
        since = self._clock() if is_ours else self._delivery.last_activity
        left_s = since + self._idle_timeout_s - self._clock()
        if left_s > 0:
            self._idle_timer = self._loop.call_later(left_s, self._look)
        else:
            self._idle_timer = None
            self._delivery.fail(UpstreamTimeout(f"the upstream sent nothing for {self._idle_timeout_s:g} s"))

    def _give_up_client(self) -> None:
        self._stall_timer = None
        self.stalled = True
        self._reply.abort()
