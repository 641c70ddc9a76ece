"""The edge by itself: what it costs a request to be let in, or not.

From the target as received to the rate limit, and what a page may read of the reply; without a connection. Measured
without keys, with as many as a team has, and with many more.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from proxy.admission.ratelimit import RateLimits
from proxy.bench.collector import without_collections
from proxy.bench.own.costs import Cost, costs_table
from proxy.bench.own.output import tell, write
from proxy.edge.guard import Guard
from proxy.edge.keys import hash_key, new_key
from proxy.edge.origins import reply_fields
from proxy.errors import PilotlightError
from proxy.relay.target import parse_target
from proxy.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxy.wire.headers import Field

TARGET_US: Final = 30.0
COUNTS: Final = (0, 100, 10_000)

_SECRET: Final = bytes(32)
_PEER: Final = "203.0.113.7"
_HERE: Final = "203.0.113.1"
_PAGE: Final = (b"Origin", b"https://app.example")
_FORWARDED: Final = (b"X-Forwarded-For", b"198.51.100.4, 203.0.113.7")
_NOW_UNIX: Final = 1_795_564_800.0
# What the client of OpenAI's sends beside the key.
_FIELDS: Final[tuple[Field, ...]] = (
    (b"Host", b"models.example:11435"),
    (b"Accept-Encoding", b"gzip, deflate"),
    (b"Connection", b"keep-alive"),
    (b"Accept", b"application/json"),
    (b"Content-Type", b"application/json"),
    (b"User-Agent", b"OpenAI/Python 3.57.0"),
    (b"X-Stainless-Lang", b"python"),
    (b"X-Stainless-Package-Version", b"3.57.0"),
    (b"X-Stainless-OS", b"Linux"),
    (b"X-Stainless-Arch", b"x64"),
    (b"X-Stainless-Runtime", b"CPython"),
    (b"X-Stainless-Runtime-Version", b"3.11.2"),
    (b"X-Stainless-Async", b"false"),
    (b"x-stainless-retry-count", b"0"),
    (b"Content-Length", b"512"),
)
_REPLY: Final[tuple[Field, ...]] = (
    (b"Content-Type", b"application/x-ndjson"),
    (b"Date", b"Wed, 25 Nov 2026 00:00:00 GMT"),
    (b"X-Request-Id", b"0123456700000001"),
)


@dataclass(frozen=True, slots=True)
class Request:
    """One kind of request, and how it has to end.

    Attributes:
        fields: All that it sends but the key.
        peer: The other end's address.
        key: ``known``, each in its turn; ``unknown``, each time another one; or none.
        refused: The status of its refusal; ``None``: it is let in.
    """

    title: str
    fields: tuple[Field, ...] = _FIELDS
    peer: str = _PEER
    method: str = "POST"
    target: str = "/v1/chat/completions"
    key: str = ""
    refused: int | None = None


_TOGETHER: Final = 100
_PREFLIGHT: Final = (*_FIELDS[:1], _PAGE, (b"Access-Control-Request-Method", b"POST"))
WITHOUT_KEYS: Final = (
    Request("from this machine", peer="127.0.0.1"),
    Request("from this machine, a page", (*_FIELDS, _PAGE), "127.0.0.1"),
    Request("a stranger", refused=401),
)
WITH_KEYS: Final = (
    Request("key", key="known"),
    Request("key, a page", (*_FIELDS, _PAGE), key="known"),
    Request("key, through a trusted proxy", (*_FIELDS, _FORWARDED), key="known"),
    Request("key without the scope", method="DELETE", target="/api/delete", key="known", refused=403),
    Request("unknown key", key="unknown", refused=401),
    Request("a page that asks first", _PREFLIGHT, method="OPTIONS"),
    Request("a page that may not", (*_FIELDS, (b"Origin", b"https://evil.example")), key="known", refused=403),
    Request("another host's name", ((b"Host", b"evil.example"), *_FIELDS[1:]), key="known", refused=421),
)


class WrongEndError(Exception):
    """A request was let in that has to be refused, or the reverse."""


class Edge:
    """A guard with keys, and the rates behind it.

    Args:
        count: How many keys there are.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._known = [_key(number) for number in range(count)]
        entries = [{"name": f"key-{number}", "hash": hash_key(key)} for number, key in enumerate(self._known)]
        edge = {"hosts": ["models.example"], "origins": ["https://app.example"], "trusted_proxies": ["203.0.113.0/24"]}
        settings = Settings.model_validate({"keys": entries, "edge": edge})
        self._guard = Guard(settings, own_names={"machine"}, authority=b"127.0.0.1:11434", secret=_SECRET)
        self._limits = RateLimits(1_000_000.0, 1_000_000)

    def __repr__(self) -> str:
        return f"<Edge {self._count} keys>"

    def cost(self, request: Request, times: int) -> Cost:
        """What one kind of request costs.

        Raises:
            WrongEndError: It does not end as it has to.
        """
        taken = []
        spent_ns = 0
        for nth in range(times):
            if not nth % _TOGETHER:
                # Processor time is read by a system call, which costs as much as a request and leaves caches cold.
                spent_ns -= time.thread_time_ns()
            fields = (*request.fields, *self._credential(request.key, nth))
            refused = None
            began = time.perf_counter_ns()
            try:
                self._admit(request, fields, nth * 1e-3)
            except PilotlightError as error:
                refused = error.status
            taken.append(time.perf_counter_ns() - began)
            if nth % _TOGETHER == _TOGETHER - 1 or nth == times - 1:
                spent_ns += time.thread_time_ns()
            if refused != request.refused:
                raise WrongEndError(f"{request.title}: {refused or 'let in'} instead of {request.refused or 'let in'}")
        taken.sort()
        p50_us, p99_us = (taken[min(times - 1, int(times * share))] / 1e3 for share in (0.5, 0.99))
        return Cost(f"{self._count} keys: {request.title}", spent_ns / times / 1e3, p50_us, p99_us, TARGET_US)

    def _admit(self, request: Request, fields: Sequence[Field], now: float) -> None:
        target = parse_target(request.target)
        admitted = self._guard.admit(
            request.method, target.path, fields, peer=request.peer, local=_HERE, now_unix=_NOW_UNIX
        )
        if admitted.answer is not None:
            return
        key = admitted.key
        if key is None:
            self._limits.take(admitted.who, now)
        else:
            self._limits.take(admitted.who, now, rate_per_s=key.rate_per_s, burst=key.burst)
        reply_fields(_REPLY, admitted.echo)

    def _credential(self, key: str, nth: int) -> tuple[Field, ...]:
        if not key:
            return ()
        shown = self._known[nth % self._count] if key == "known" else _key(self._count + nth)
        return ((b"Authorization", b"Bearer " + shown.encode()),)


def _key(number: int) -> str:
    return new_key(number.to_bytes(32))


def run(times: int, counts: Sequence[int] = COUNTS) -> list[Cost]:
    """Measure every kind of request with every number of keys."""
    costs = []
    with without_collections():
        for count in counts:
            tell(f"{count} keys")
            edge = Edge(count)
            requests = WITH_KEYS if count else WITHOUT_KEYS
            # Not counted: caches are filled, and Python's own specialising is done.
            for request in requests:
                edge.cost(request, min(times, 1_000))
            costs += [edge.cost(request, times) for request in requests]
    return costs


def describe(costs: Sequence[Cost], times: int) -> str:
    """The table, and what it shows."""
    return "\n".join([*costs_table(costs), "", f"{times} requests of each kind, judged by the mean.", ""])


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench edge", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small numbers: whether it works, not how fast")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    given = parser.parse_args()
    times, counts = (200, (0, 100)) if given.quick else (20_000, COUNTS)
    costs = run(times, counts)
    sys.stdout.write(describe(costs, times))
    if given.json is not None:
        write(given.json, {"times": times, "costs": [cost.as_json() for cost in costs]})


if __name__ == "__main__":
    main()
