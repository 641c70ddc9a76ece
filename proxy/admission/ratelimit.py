"""How many requests one client may send: a token bucket for each.

What must live here: the buckets, and who a request counts as. What it must not know: routes, headers, settings. Whether
a credential is a good one is decided before.

A bucket of our own, because the library ``limits`` has fixed, moving and sliding windows and no token bucket: a window
either lets twice the rate through at its edge or keeps a time for each request.
"""

from __future__ import annotations

import hmac
import math
from heapq import heappop, heappush, heapreplace
from ipaddress import IPv6Address, ip_address

from proxy.errors import RateLimited

_NETWORK_BITS = 64


class RateLimits:
    """Token buckets, one for each key, in a table of limited size.

    A bucket is one number, the time at which it will be full (the algorithm's "virtual scheduling" form, ITU-T I.371):
    what it misses is a debt in seconds. A full bucket is one that nobody has to remember.

    Where the table is full of buckets that are not, the one that is nearest to full makes room, because it has the
    least to forget; among equals that is the one that was used least recently. So nobody empties his own bucket's
    memory by coming under many names.

    Args:
        rate_per_s: Requests a second in the long run; 0 for no limit.
        burst: Requests that may come at once after a rest; at least 1.
        max_entries: Most buckets that are kept; each costs some 250 bytes and its key.
    """

    def __init__(self, rate_per_s: float, burst: int, max_entries: int = 10_000) -> None:
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._max_entries = max_entries
        self._full_at: dict[str, float] = {}
        # One entry for each key of the table. Its time may be an earlier one than the table's, never a later one.
        self._soonest: list[tuple[float, str]] = []

    def __repr__(self) -> str:
        return f"<RateLimits {len(self._full_at)} keys>"

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, key: str, now: float, *, rate_per_s: float | None = None, burst: int | None = None) -> float:
        """Take one token.

        Args:
            key: Whose, see :func:`client_of`.
            now: Monotonic seconds.
            rate_per_s: This key's own rate, 0 for no limit; ``None`` for the common one.
            burst: This key's own burst; ``None`` for the common one.

        Returns:
            0.0 where the request may go; else the seconds after which it may, and then nothing was taken.
        """
        rate_per_s = self._rate_per_s if rate_per_s is None else rate_per_s
        if rate_per_s <= 0:
            return 0.0
        token_s = 1 / rate_per_s
        burst = self._burst if burst is None else burst
        full_at = self._full_at.get(key)
        debt_s = 0.0 if full_at is None else max(0.0, full_at - now)
        wait_s = debt_s - (burst - 1) * token_s
        if wait_s > 0:
            return wait_s
        if full_at is None:
            self._make_room(now)
            heappush(self._soonest, (now + token_s, key))
        self._full_at[key] = now + debt_s + token_s
        return 0.0

    def change(self, rate_per_s: float, burst: int) -> None:
        """Other figures from now on, and a full bucket for everyone.

        A debt is kept in seconds, which mean another number of tokens at another rate: whoever had emptied a bucket of
        a low rate would wait for long although the rate was raised for his sake.
        """
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._full_at.clear()
        self._soonest.clear()

    def _make_room(self, now: float) -> None:
        """Drop every bucket that is full again, and one that is nearly so where there still is no room.

        Each turn removes a bucket or catches up with tokens that were taken since, so a token costs O(log n) in all.
        """
        soonest = self._soonest
        while soonest and (soonest[0][0] <= now or len(self._full_at) >= self._max_entries):
            noted_at, key = soonest[0]
            full_at = self._full_at[key]
            if full_at > noted_at:
                heapreplace(soonest, (full_at, key))
            else:
                heappop(soonest)
                del self._full_at[key]


def refusal(wait_s: float) -> RateLimited:
    """What a client is told whose bucket is empty.

    Args:
        wait_s: As :meth:`RateLimits.take` said. ``Retry-After`` has whole seconds: rounded down it would be too early.
    """
    return RateLimited("too many requests; try again later", retry_after_s=math.ceil(wait_s))


def client_of(peer: str, credential: str, secret: bytes) -> str:
    """Who a request counts as.

    Args:
        peer: Address of the other end of the connection, without a port. What the client says of itself
            (``X-Forwarded-For``) belongs here only where the peer is trusted.
        credential: That was found good; "" for none. One that nobody checked is the client's free choice, and each new
            one would be a full bucket.
        secret: Of this process, random, at least 16 bytes.

    Returns:
        A name for tables and logs. It does not tell the credential: without ``secret`` a guess cannot be tried. An
        address of IPv6 counts by its /64, because whoever has one address has them all (RFC 6177).
    """
    if credential:
        return "key:" + hmac.digest(secret, credential.encode("utf-8", "surrogateescape"), "sha256")[:8].hex()
    try:
        address = ip_address(peer)
    except ValueError:
        # A Unix socket, or what a test calls itself.
        return f"peer:{peer}"
    if not isinstance(address, IPv6Address):
        return f"ip:{address}"
    if address.ipv4_mapped is not None:
        return f"ip:{address.ipv4_mapped}"
    network = IPv6Address(int(address) >> _NETWORK_BITS << _NETWORK_BITS)
    return f"ip:{network}/{_NETWORK_BITS}"
