"""Answers that are kept for a while.

What must live here: what an entry costs, and which one goes when there is no room. What it must not know: what was
asked. Nothing here waits, and an answer that is found is not copied.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from cachetools import TTLCache

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.wire.http1 import ReplyHead

Reason = Literal["ttl", "size", "flush"]

# What CPython and cachetools spend beside the bytes themselves (measured on 3.11: 33 to 41 for a bytes object and its
# place in a tuple, 130 for a field, 900 for an entry with its links, its key and its digest); rounded up.
ENTRY_BYTES: Final = 1024
PIECE_BYTES: Final = 48
FIELD_BYTES: Final = 144
# So that one answer cannot push all others out.
_LARGEST_SHARE: Final = 8


class Recorded(NamedTuple):
    """A complete answer.

    Attributes:
        head: As it came.
        pieces: The body without framing. Of a stream one piece for each frame.
        recorded_at: Seconds since the epoch.
    """

    head: ReplyHead
    pieces: tuple[bytes, ...]
    recorded_at: float

    @property
    def size_bytes(self) -> int:
        """What it costs to keep, all told."""
        head = sum(len(name) + len(value) + FIELD_BYTES for name, value in self.head.fields)
        return ENTRY_BYTES + head + sum(map(len, self.pieces)) + PIECE_BYTES * len(self.pieces)


@dataclass(frozen=True, slots=True)
class _Entry:
    recorded: Recorded
    digest: str
    size_bytes: int


def _nothing(reason: Reason) -> None:
    """Nobody counts."""


class Answers:
    """A bounded number of answers; the one that was not asked for longest goes first.

    Args:
        max_entries: How many; 0 for none.
        max_bytes: What they may cost together. One of more than an eighth of it is not taken.
        ttl_s: How long one is kept, asked for or not.
        clock: Monotonic seconds.
        on_evicted: Told of each one that goes, with the reason.
    """

    def __init__(
        self,
        max_entries: int,
        max_bytes: int,
        ttl_s: float,
        clock: Callable[[], float],
        on_evicted: Callable[[Reason], None] = _nothing,
    ) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._clock = clock
        self._on_evicted = on_evicted
        # The cache drops what is out of date by itself, and tells nobody. So its time only moves in :meth:`_expire`.
        self._now = clock()
        self._cache: TTLCache[bytes, _Entry, float] = TTLCache(
            max_bytes, ttl_s, timer=lambda: self._now, getsizeof=lambda entry: entry.size_bytes
        )
        self._by_digest: dict[str, set[bytes]] = {}

    def __repr__(self) -> str:
        return f"<Answers {len(self._cache)} entries, {self._cache.currsize:.0f} bytes>"

    def __len__(self) -> int:
        self._expire()
        return len(self._cache)

    @property
    def size_bytes(self) -> int:
        self._expire()
        return int(self._cache.currsize)

    @property
    def largest_bytes(self) -> int:
        """What one answer may cost."""
        return self._max_bytes // _LARGEST_SHARE

    def get(self, key: bytes) -> Recorded | None:
        self._expire()
        entry = self._cache.get(key)
        return None if entry is None else entry.recorded

    def put(self, key: bytes, digest: str, recorded: Recorded) -> bool:
        """Keep an answer, in place of an older one with the same key.

        Args:
            key: Of the request.
            digest: Of the model that answered, for :meth:`flush`.
            recorded: The answer.

        Returns:
            Whether it was taken; not when it is too large.
        """
        self._expire()
        size_bytes = recorded.size_bytes
        if size_bytes > self.largest_bytes or self._max_entries < 1:
            return False
        if key in self._cache:
            self._drop(key)
        while len(self._cache) >= self._max_entries or self._cache.currsize + size_bytes > self._max_bytes:
            oldest, entry = self._cache.popitem()
            self._forget(oldest, entry)
            self._on_evicted("size")
        self._cache[key] = _Entry(recorded, digest, size_bytes)
        self._by_digest.setdefault(digest, set()).add(key)
        return True

    def flush(self, digest: str) -> int:
        """Drop every answer of a model; how many there were."""
        self._expire()
        keys = list(self._by_digest.get(digest, ()))
        for key in keys:
            self._drop(key)
            self._on_evicted("flush")
        return len(keys)

    def _drop(self, key: bytes) -> None:
        self._forget(key, self._cache.pop(key))

    def _forget(self, key: bytes, entry: _Entry) -> None:
        keys = self._by_digest[entry.digest]
        keys.discard(key)
        if not keys:
            del self._by_digest[entry.digest]

    def _expire(self) -> None:
        self._now = self._clock()
        for key, entry in self._cache.expire():
            self._forget(key, entry)
            self._on_evicted("ttl")
