"""How much ``scripts/bench relay`` measures, and what it then has measured."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any, Final

from proxy.bench.own.figures import (
    CPU_CHAT,
    CPU_GENERATE,
    DIRECT,
    FIRST_TOKEN_CHAT,
    FIRST_TOKEN_GENERATE,
    MEMORY_REST,
    MEMORY_STREAM,
    Row,
)

# The one is relayed as it is, the other asked as the one and mapped back.
KINDS: Final = ("/api/chat", "/api/generate")


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is measured.

    Attributes:
        rounds: Of first tokens and processor time.
        calls: For the first token, on each way and of each kind, in each round.
        streams: At the same time, for processor time.
        replies: That each of them reads in one round.
        idle_streams: For memory.
    """

    rounds: int = 10
    calls: int = 50
    streams: int = 32
    replies: int = 2
    idle_streams: int = 1000


QUICK: Final = Extent(rounds=1, calls=10, streams=8, replies=1, idle_streams=50)


@dataclass(slots=True)
class Samples:
    """What was measured, by kind of call and way.

    Attributes:
        first_token_s: Each call's.
        cpu_s: Processor seconds of each round.
        tokens: That were relayed for them.
        rest_kib, streams_kib: Resident memory, by way.
    """

    first_token_s: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    cpu_s: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    tokens: dict[tuple[str, str], int] = field(default_factory=dict)
    rest_kib: dict[str, int] = field(default_factory=dict)
    streams_kib: dict[str, int] = field(default_factory=dict)

    def rows(self, extent: Extent) -> list[Row]:
        """The table."""
        rows = []
        for kind, measure in zip(KINDS, (FIRST_TOKEN_CHAT, FIRST_TOKEN_GENERATE), strict=True):
            p50 = {way: statistics.median(taken) for (of, way), taken in self.first_token_s.items() if of == kind}
            rows.append(Row(measure, {way: (s - p50[DIRECT]) * 1e3 for way, s in p50.items() if way != DIRECT}))
        for kind, measure in zip(KINDS, (CPU_CHAT, CPU_GENERATE), strict=True):
            per_token = {
                way: sum(taken) / self.tokens[(of, way)] * 1e6 for (of, way), taken in self.cpu_s.items() if of == kind
            }
            rows.append(Row(measure, per_token))
        rows.append(Row(MEMORY_REST, {way: kib / 1024 for way, kib in self.rest_kib.items()}))
        per_stream = {way: (kib - self.rest_kib[way]) / extent.idle_streams for way, kib in self.streams_kib.items()}
        rows.append(Row(MEMORY_STREAM, per_stream))
        return rows

    def as_json(self) -> dict[str, Any]:
        def by_name(found: dict[tuple[str, str], Any]) -> dict[str, Any]:
            return {f"{way} {kind}": value for (kind, way), value in found.items()}

        return {
            "first_token_s": by_name(self.first_token_s),
            "cpu_s": by_name(self.cpu_s),
            "tokens": by_name(self.tokens),
            "rest_kib": self.rest_kib,
            "streams_kib": self.streams_kib,
        }
