"""How long the first token of one call takes, as a client sees it."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp

if TYPE_CHECKING:
    from collections.abc import Mapping


class MeasureError(Exception):
    """The call gave no token; the message says what came instead."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One call.

    Attributes:
        first_token_s: From just before the request is sent to the arrival of the first frame with content.
        total_s: To the arrival of the last frame.
    """

    first_token_s: float
    total_s: float


async def measure(session: aiohttp.ClientSession, url: str, body: Mapping[str, Any]) -> Measured:
    """Send one streaming chat or generate call and read it to its end.

    Args:
        session: Without a total timeout that a load would exceed.
        url: Of ``/api/chat`` or ``/api/generate``.
        body: ``stream`` is not false.

    Raises:
        MeasureError: Another status than 200, an error frame, or no token.
    """
    first: float | None = None
    record: dict[str, Any] = {}
    started = time.monotonic()
    try:
        async with session.post(url, json=body) as response:
            if response.status != 200:
                raise MeasureError(f"{url} answered {response.status}: {(await response.text())[:200]}")
            async for line in response.content:
                arrived = time.monotonic()
                record = json.loads(line)
                if "error" in record:
                    raise MeasureError(f"{url} broke off: {record['error']}")
                if first is None and _has_token(record):
                    first = arrived
    except (aiohttp.ClientError, ValueError) as error:
        raise MeasureError(f"{url}: {error or type(error).__name__}") from error
    if first is None or not record.get("done"):
        raise MeasureError(f"{url} ended without a token or a final record")
    return Measured(first - started, time.monotonic() - started)


def _has_token(record: Mapping[str, Any]) -> bool:
    said = record.get("message") or record
    return any(said.get(name) for name in ("content", "response", "thinking", "tool_calls"))
