"""``scripts/bench relay``: what relaying costs, direct, through nginx and through Pilotlight, in one run and in turn.

Three kinds of processes: this one, which is the clients; the stand-in for Ollama; and what is measured, on a processor
of its own. Whatever else the machine does meanwhile falls on all ways alike, because they take turns: call by call for
the first token, round by round for processor time.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import resource
import signal
import statistics
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import uvloop

from proxy.bench.children import ChildError, pinned, processors
from proxy.bench.collector import without_collections
from proxy.bench.own.figures import DIRECT, figures_table
from proxy.bench.own.load import PROMPTS, Caller, LoadError, Streams, request
from proxy.bench.own.output import tell, write
from proxy.bench.own.proc import cpu_s, rss_kib
from proxy.bench.own.samples import KINDS, QUICK, Extent, Samples
from proxy.bench.own.standin import PACE_S, TOKENS
from proxy.bench.own.ways import Way, find_nginx, open_ways

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
# Before the first figure: connections are open, caches and branch predictors warm, on every way.
_WARM_UP_CALLS: Final = 20
_SETTLE_S: Final = 1.0
_FILES: Final = 8192


async def measure(ways: Sequence[Way], extent: Extent, tell: Callable[[str], None]) -> Samples:
    """Measure everything.

    Args:
        ways: Direct first.
        extent: How much.
        tell: Is told each step.

    Raises:
        LoadError: A call was not answered as it has to be.
    """
    samples = Samples()
    tell("warming up")
    await _take_first_tokens(ways, _WARM_UP_CALLS, Samples())
    for way in ways[1:]:
        tell(f"memory, {way.name}")
        await _take_memory(way, extent.idle_streams, samples)
    for number in range(extent.rounds):
        tell(f"round {number + 1} of {extent.rounds}: first tokens")
        await _take_first_tokens(ways, extent.calls, samples)
        for kind in KINDS:
            # The other way round in every other round, so that none is always the first.
            for way in ways[1:] if number % 2 else reversed(ways[1:]):
                tell(f"round {number + 1} of {extent.rounds}: paced streams, {kind}, {way.name}")
                await _take_cpu(way, kind, extent, samples)
    return samples


async def _take_first_tokens(ways: Sequence[Way], calls: int, samples: Samples) -> None:
    with contextlib.ExitStack() as stack:
        callers = {way.name: stack.enter_context(contextlib.closing(Caller(way.port))) for way in ways}
        for kind in KINDS:
            for caller in callers.values():
                # Not counted: it opens the connection behind.
                caller.first_token_s(request(kind, "burst"))
            for number in range(calls):
                call = request(kind, "burst", number)
                for name, caller in callers.items():
                    samples.first_token_s.setdefault((kind, name), []).append(caller.first_token_s(call))
                # A Ctrl-C is heard here.
                await asyncio.sleep(0)


async def _take_cpu(way: Way, kind: str, extent: Extent, samples: Samples) -> None:
    async with Streams(way.port, extent.streams) as streams:
        before_s = cpu_s(way.pids)
        calls = [request(kind, "paced", number) for number in range(PROMPTS)]
        tokens = await streams.read_replies(calls, extent.replies, PACE_S)
        # What is left to do after the last byte belongs to it: log line, metrics.
        await asyncio.sleep(PACE_S)
        spent_s = cpu_s(way.pids) - before_s
    key = (kind, way.name)
    samples.cpu_s.setdefault(key, []).append(spent_s)
    samples.tokens[key] = samples.tokens.get(key, 0) + tokens


async def _take_memory(way: Way, count: int, samples: Samples) -> None:
    samples.rest_kib[way.name] = rss_kib(way.pids)
    async with Streams(way.port, count) as streams:
        await streams.begin(request("/api/chat", "idle"))
        await asyncio.sleep(_SETTLE_S)
        samples.streams_kib[way.name] = rss_kib(way.pids)
    await asyncio.sleep(_SETTLE_S)


async def run(extent: Extent, nginx: str | None) -> Samples:
    """Start everything, measure, and end everything.

    Args:
        extent: How much is measured.
        nginx: The program; ``None``: without it.

    Raises:
        ChildError: Something did not start.
        LoadError: A call was not answered as it has to be.
    """
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    with tempfile.TemporaryDirectory(prefix="pilotlight-bench-") as folder:
        async with open_ways(Path(folder), nginx, tell) as ways:
            _, others = processors()
            with pinned(others), without_collections():
                return await measure(ways, extent, tell)


def describe(samples: Samples, extent: Extent) -> str:
    """The table, and what it shows."""
    direct = " and ".join(
        f"{statistics.median(samples.first_token_s[(kind, DIRECT)]) * 1e3:.3f} ms ({kind})" for kind in KINDS
    )
    return "\n".join(
        [
            figures_table(samples.rows(extent)),
            "",
            f"First token: p50 of {extent.rounds * extent.calls} calls on each way, one at a time, less direct's,",
            f"which is {direct}.",
            f"CPU: user and system time of the proxy's processes for {sum(samples.tokens.values())} tokens in all,",
            f"in replies of {TOKENS}, {extent.streams} streams at a time, a token every {PACE_S * 1e3:g} ms in each.",
            f"Memory: resident; with {extent.idle_streams} streams open, less what is resident at rest.",
            "Measured against a stand-in that computes nothing: it is not Ollama, and its times are not Ollama's.",
            "",
        ]
    )


def as_json(samples: Samples, extent: Extent) -> dict[str, Any]:
    """Everything that was measured."""
    return {
        "extent": dataclasses.asdict(extent),
        "rows": [row.as_json() for row in samples.rows(extent)],
        "samples": samples.as_json(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench relay", description=__doc__.partition("\n")[0])
    rounds = Extent().rounds
    parser.add_argument("--rounds", type=int, default=rounds, help="of first tokens and processor time (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="one small round: whether it works, not how fast")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table and all samples there")
    parser.add_argument("--without-nginx", action="store_true", help="compare with direct calls only")
    given = parser.parse_args()
    if given.rounds < 1:
        parser.error("--rounds must be at least 1")
    if not sys.platform.startswith("linux"):
        parser.exit(EXIT_USAGE, "scripts/bench relay reads /proc and chooses processors: it runs on Linux only\n")
    nginx = None if given.without_nginx else find_nginx()
    if nginx is None and not given.without_nginx:
        parser.exit(
            EXIT_USAGE,
            "nginx is not installed, and it is what Pilotlight is compared with: install it (apt-get install nginx), "
            "or say --without-nginx\n",
        )
    _raise_file_limit()
    extent = QUICK if given.quick else Extent(rounds=given.rounds)
    try:
        samples = uvloop.run(run(extent, nginx))
        sys.stdout.write(describe(samples, extent))
        if given.json is not None:
            write(given.json, as_json(samples, extent))
    except (ChildError, LoadError, OSError) as error:
        parser.exit(EXIT_FAILED, f"scripts/bench relay: {error}\n")
    except (KeyboardInterrupt, asyncio.CancelledError):
        # Ctrl-C, or SIGTERM; everything that was started has been ended on the way here.
        parser.exit(130)


def _raise_file_limit() -> None:
    """A proxy needs two files for each idle stream; what we start inherits the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


if __name__ == "__main__":
    main()
