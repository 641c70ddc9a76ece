"""The last requests, for ``/requests``: what was measured of each, never what was said.

Rows are kept as encoded JSON: a thousand of them take 0.7 MB that way instead of 3, and the page is put together
without encoding anything.
"""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Mapping

LIMIT = 1000


class Recent:
    """A ring of encoded rows, newest last.

    Args:
        limit: How many rows are kept.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self._rows: deque[bytes] = deque(maxlen=limit)

    def __repr__(self) -> str:
        return f"<Recent rows={len(self._rows)} limit={self._rows.maxlen}>"

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, row: Mapping[str, Any], finished_unix: float) -> None:
        """Note a row, and the time of day at which its request ended: seconds since 1970."""
        at = datetime.fromtimestamp(finished_unix, UTC).isoformat(timespec="milliseconds")
        # A copy, because orjson gives back the whole 8 KiB block that it wrote into (3.13; docs/profiling.md).
        self._rows.append(bytes(memoryview(orjson.dumps({"finished_at": at, **row}))))

    def page(self, limit: int | None = None) -> bytes:
        """``{"requests": [...]}`` as JSON, newest first, of at most ``limit`` rows."""
        rows = list(self._rows)[::-1][:limit]
        return b'{"requests":[' + b",".join(rows) + b"]}"

    def rows(self, limit: int | None = None) -> list[dict[str, Any]]:
        """The same, decoded."""
        decoded: list[dict[str, Any]] = orjson.loads(self.page(limit))["requests"]
        return decoded
