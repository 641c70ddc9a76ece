"""``scripts/bench batch``: how many tiny answers a second `pilotlight batch` takes, on one processor, and its memory.

Three programs send the same lines to a stand-in that answers at once, in turn, each on one processor of its own: one
request after the other with aiohttp's client, so many at a time with aiohttp's client, and `pilotlight batch`, which
alone has its results on the disk before it says that they are done. Start and end of each program are in its time.

The stand-in is no model: what is measured is what sending and writing cost, not what answering does.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

import aiohttp
import uvloop

from proxy.bench.children import ENVIRON, PILOTLIGHT, Child, ChildError, free_port, pinned, processors
from proxy.bench.own.output import tell, write

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

EXIT_FAILED: Final = 1
SEQUENTIAL, AT_ONCE, BATCH = "aiohttp, one after the other", "aiohttp, many at a time", "pilotlight batch"
MODEL: Final = "standin"
_OURS: Final = (sys.executable, "-m", "proxy.bench.own.batch")
_ANSWER: Final = {
    "model": MODEL,
    "created_at": "2026-11-21T04:44:25.185667685Z",
    "response": "Yes.",
    "done": True,
    "done_reason": "stop",
    "total_duration": 45135955,
    "prompt_eval_count": 11,
    "eval_count": 2,
}


class BenchError(Exception):
    """A program did not do what it has to."""


class Sample(NamedTuple):
    """One program's run: seconds by the clock, seconds of processor time, largest resident memory."""

    elapsed_s: float
    cpu_s: float
    rss_kib: int


# --- the stand-in


class _Answering(asyncio.Protocol):
    """Reads a request that comes whole or in pieces, and answers it."""

    _BODY = json.dumps(_ANSWER, separators=(",", ":")).encode()
    _REPLY = b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: %d\r\n\r\n%b" % (
        len(_BODY),
        _BODY,
    )

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            lower = self._received[:end].lower()
            size = end + 4 + int(lower.partition(b"content-length:")[2].split(b"\r\n", 1)[0] or 0)
            if len(self._received) < size or self._transport is None:
                return
            self._received = self._received[size:]
            self._transport.write(self._REPLY)


async def answer(port: int) -> None:
    """Answer every request on a port of loopback, until cancelled."""
    server = await asyncio.get_running_loop().create_server(_Answering, "127.0.0.1", port, backlog=1024)
    async with server:
        await server.serve_forever()


# --- the other ways


async def send_with_aiohttp(source: Path, out: Path, url: str, concurrency: int) -> None:
    """What an application would write by itself: no repetition, nothing to go on with, no care for the disk."""
    with source.open("rb") as lines, out.open("wb") as results:
        numbered = enumerate(lines, 1)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:

            async def work() -> None:
                for number, line in numbered:
                    body = {"model": MODEL, "stream": False, **json.loads(line)}
                    async with session.post(f"{url}/api/generate", json=body) as reply:
                        made = await reply.json()
                    results.write(json.dumps({"line": number, "text": made["response"]}).encode() + b"\n")

            await asyncio.gather(*(work() for _ in range(concurrency)))


# --- measuring


def command(way: str, source: Path, out: Path, url: str, concurrency: int) -> list[str]:
    if way == BATCH:
        own = ["batch", str(source), "--out", str(out), "--url", url, "--model", MODEL]
        return [*PILOTLIGHT, *own, "--concurrency", str(concurrency)]
    at_once = 1 if way == SEQUENTIAL else concurrency
    return [*_OURS, "--send", str(source), str(out), url, str(at_once)]


def measure(arguments: Sequence[str], log: Path, cpus: frozenset[int] | None) -> Sample:
    """Run a program to its end.

    Raises:
        BenchError: It ended with another exit code than 0.
    """
    started = time.perf_counter()
    with log.open("wb") as file, pinned(cpus):
        process = subprocess.Popen(arguments, stdout=file, stderr=file, env=ENVIRON)  # noqa: S603 - our own
    try:
        _, status, usage = os.wait4(process.pid, 0)
    except BaseException:
        process.kill()
        raise
    # It has been waited for; what Popen does not know it would warn of.
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise BenchError(f"{' '.join(arguments)} ended with {process.returncode}: {log.read_text()[-500:]}")
    return Sample(time.perf_counter() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss)


def check(out: Path, lines: int) -> None:
    """See that every line has its result, once.

    Raises:
        BenchError: It has not.
    """
    with out.open("rb") as file:
        numbers = sorted(json.loads(line)["line"] for line in file)
    if numbers != list(range(1, lines + 1)):
        raise BenchError(f"{out}: {len(numbers)} results for {lines} lines")


def write_lines(path: Path, count: int) -> Path:
    path.write_text("".join(json.dumps({"prompt": f"Is {number} a number?"}) + "\n" for number in range(count)))
    return path


async def run(lines: int, rounds: int, concurrency: int) -> dict[str, Any]:
    """Measure everything; the figures as they go into ``--json``."""
    with tempfile.TemporaryDirectory(prefix="pilotlight-bench-") as name:
        measured, others = processors()
        folder = Path(name)
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        few, many = write_lines(folder / "few.jsonl", lines // 5), write_lines(folder / "many.jsonl", lines)
        samples: dict[str, list[Sample]] = {SEQUENTIAL: [], AT_ONCE: [], BATCH: []}
        memory: list[int] = []
        child = Child(["--answer", str(port)], folder / "standin.log", ENVIRON, program=_OURS, cpus=others)
        async with child as standin:
            await standin.wait_listening(port)
            for number in range(rounds):
                for way, taken in samples.items():
                    tell(f"round {number + 1} of {rounds}: {way}")
                    out = folder / f"{number}-{len(way)}.jsonl"
                    arguments = command(way, many, out, url, concurrency)
                    taken.append(await asyncio.to_thread(measure, arguments, folder / "way.log", measured))
                    check(out, lines)
                    out.unlink()
                out = folder / f"{number}-few.jsonl"
                arguments = command(BATCH, few, out, url, concurrency)
                memory.append((await asyncio.to_thread(measure, arguments, folder / "way.log", measured)).rss_kib)
    return {
        "lines": lines,
        "concurrency": concurrency,
        "samples": {way: [sample._asdict() for sample in taken] for way, taken in samples.items()},
        "rss_kib_of_a_fifth": memory,
    }


def describe(figures: Mapping[str, Any]) -> str:
    """The table, and what it shows."""
    lines = figures["lines"]

    def median(way: str, field: str) -> float:
        return statistics.median([float(sample[field]) for sample in figures["samples"][way]])

    table = [
        f"{lines:,} lines, {figures['concurrency']} at a time{'':<6} lines/s   CPU ms a line   memory, MiB   times"
    ]
    base = median(SEQUENTIAL, "elapsed_s")
    for way in figures["samples"]:
        elapsed_s = median(way, "elapsed_s")
        cpu_ms, rss_mib = median(way, "cpu_s") / lines * 1000, median(way, "rss_kib") / 1024
        row = f"{lines / elapsed_s:>8,.0f} {cpu_ms:>15.3f} {rss_mib:>13.1f} {base / elapsed_s:>7.2f}"
        table.append(f"{way:<32}{row}")
    few = statistics.median(figures["rss_kib_of_a_fifth"]) / 1024
    table.append(f"\nMemory of pilotlight batch with {lines // 5:,} lines: {few:.1f} MiB.")
    return "\n".join(table) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench batch", description=__doc__.partition("\n")[0])
    parser.add_argument("--lines", type=int, default=10_000, help="(%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="each way is measured so often (%(default)s)")
    parser.add_argument("--concurrency", type=int, default=16, help="at a time (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every measurement there")
    # What the programs are that it starts.
    parser.add_argument("--answer", type=int, metavar="PORT", help=argparse.SUPPRESS)
    parser.add_argument("--send", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.lines < 5 or min(given.rounds, given.concurrency) < 1:
        parser.error("--lines must be at least 5, --rounds and --concurrency at least 1")
    try:
        if given.answer is not None:
            uvloop.run(answer(given.answer))
        elif given.send is not None:
            source, out, url, at_once = given.send
            uvloop.run(send_with_aiohttp(Path(source), Path(out), url, int(at_once)))
        else:
            figures = asyncio.run(run(given.lines, given.rounds, given.concurrency))
            sys.stdout.write(describe(figures))
            if given.json is not None:
                write(given.json, figures)
    except (BenchError, ChildError, aiohttp.ClientError, OSError) as error:
        parser.exit(EXIT_FAILED, f"scripts/bench batch: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130)


if __name__ == "__main__":
    main()
