"""What other clients notice of 500 that send slowly: the time of a call beside them, and without them.

The slow ones are slowhttptest's (Debian has it): heads, and then bodies, of which a little comes each second.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from proxy.bench.children import Child, ChildError
from proxy.bench.own.load import Caller, LoadError, request
from proxy.bench.own.output import tell
from proxy.bench.own.ways import open_ways

if TYPE_CHECKING:
    from collections.abc import Sequence

TARGET_MS: Final = 100.0
_CONNECTIONS: Final = 500
_PER_S: Final = 20
_ATTACKS: Final = {"slow heads": "-H", "slow bodies": "-B"}


class Traffic:
    """Calls at a steady rate, each on the same connection, for as long as they are wanted.

    Attributes:
        taken_s: From sending to the first token, of each that was answered.
        failed: How many were not.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self.taken_s: list[float] = []
        self.failed = 0

    def run(self, seconds: float) -> None:
        """Blocks, as its client does."""
        caller = Caller(self._port)
        call = request("/api/chat", "burst")
        began = time.monotonic()
        try:
            for nth in range(round(seconds * _PER_S)):
                time.sleep(max(0.0, began + nth / _PER_S - time.monotonic()))
                try:
                    self.taken_s.append(caller.first_token_s(call))
                except (LoadError, OSError):
                    self.failed += 1
                    caller.close()
                    caller = Caller(self._port)
        finally:
            caller.close()

    def row(self, title: str) -> str:
        """The line of the table."""
        p99_ms = statistics.quantiles(self.taken_s, n=100)[98] * 1e3
        p50_ms = statistics.median(self.taken_s) * 1e3
        passed = not self.failed and p99_ms <= TARGET_MS
        counts = f"{len(self.taken_s):6} {self.failed:6}"
        return f"{title:12} {counts} {p50_ms:8.2f} {p99_ms:8.2f} {TARGET_MS:7g}  {'pass' if passed else 'MISS'}"


async def run(program: str, seconds: float, connections: int) -> dict[str, Traffic]:
    """Measure, first without slow clients.

    Raises:
        ChildError: One of the programs did not start.
    """
    measured: dict[str, Traffic] = {}
    with tempfile.TemporaryDirectory(prefix="pilotlight-bench-") as folder:
        async with open_ways(Path(folder), None, tell) as ways:
            way = ways[-1]
            tell("without slow clients")
            measured["alone"] = Traffic(way.port)
            await asyncio.to_thread(measured["alone"].run, seconds)
            for title, flag in _ATTACKS.items():
                tell(title)
                url = f"http://127.0.0.1:{way.port}/api/chat"
                arguments = _arguments(flag, connections, seconds, url)
                measured[title] = Traffic(way.port)
                async with Child(arguments, Path(folder) / "slow.log", {}, program=(program,)):
                    await asyncio.to_thread(measured[title].run, seconds)
    return measured


def _arguments(flag: str, connections: int, seconds: float, url: str) -> Sequence[str]:
    lasts_s = round(seconds) + 5
    return (flag, "-c", str(connections), "-r", "200", "-i", "1", "-l", str(lasts_s), "-p", "2", "-u", url)


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench slow", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=20.0, metavar="S", help="of each of the three parts")
    parser.add_argument("--connections", type=int, default=_CONNECTIONS, metavar="N", help="slow ones")
    given = parser.parse_args()
    program = shutil.which("slowhttptest")
    if program is None:
        parser.exit(2, "slowhttptest is not installed: apt-get install slowhttptest\n")
    try:
        measured = asyncio.run(run(program, given.seconds, given.connections))
    except ChildError as error:
        parser.exit(1, f"{error}\n")
    except KeyboardInterrupt:
        parser.exit(130)
    header = f"{'first token':12} {'calls':>6} {'failed':>6} {'p50, ms':>8} {'p99, ms':>8} {'target':>7}"
    sys.stdout.write("\n".join([header, *(traffic.row(title) for title, traffic in measured.items()), ""]))


if __name__ == "__main__":
    main()
